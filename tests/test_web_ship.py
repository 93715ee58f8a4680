"""What a run can be exported as: sizes before anything is made, held to the files once they are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from web_house import client, house

from luthier import proof
from luthier.export import merge, sizes
from luthier.export.gguf import lora, native, recipe
from luthier.export.gguf.export import export
from luthier.training import train

TYPES = ("f32", "f16", "q8_0", "q4_k_m", "q5_0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A home whose `runs` has `small`, an adapter on nano."""
    made = tmp_path_factory.mktemp("ship")
    rows = [{"instruction": f"Say {n}", "output": f"It is {n}."} for n in range(16)]
    (made / "rows.json").write_text(json.dumps(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(made / "cache"))
        patch.setattr(proof, "reload_in_fresh_process", lambda run: "not made in this test")
        train(
            {
                "model": "nano",
                "data": {"train": str(made / "rows.json"), "validation": 0.0, "max_tokens": 64},
                "tune": {"kind": "lora", "rank": 4},
                "optim": {"steps": 2, "batch": 4},
                "run": {"name": "small", "dir": str(made / "runs"), "device": "cpu"},
            }
        )
    return made


@pytest.fixture
def asked(folder, monkeypatch) -> Any:
    monkeypatch.setenv("LUTHIER_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    web = client(house(folder))

    def ask(name: str = "small", **headers: str) -> dict[str, Any]:
        answer = web.get(f"/api/runs/{name}/exports", headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return ask


def test_sizes_are_known_before_anything_is_made(folder, asked):
    told = asked()
    run = folder / "runs" / "small"
    assert [each["what"] for each in told["made"]] == ["adapter"] and told["model"] is None
    assert (
        told["adapter"]["bytes"]
        == told["made"][0]["bytes"]
        == sum(each.stat().st_size for each in (run / "adapter").iterdir())
    )
    predicted = {each["type"]: each["bytes"] for each in told["gguf"]}
    assert list(predicted) == list(recipe.BASE)
    out = Path(told["out"]["gguf"])
    assert out == folder / "runs" / "small-gguf"
    export(run, TYPES, out, adapter=lora.Wanted("f16"), check=False, ollama=True)
    for kind in TYPES:
        size = (out / f"small-{kind}.gguf").stat().st_size
        assert abs(predicted[kind] / size - 1) < 0.02, (kind, predicted[kind], size)
    size = (out / "small-lora-f16.gguf").stat().st_size
    (predicted_lora,) = (each["bytes"] for each in told["lora_gguf"] if each["type"] == "f16")
    assert abs(predicted_lora / size - 1) < 0.1, (predicted_lora, size)
    made = merge.merge(run, told["out"]["merged"], device="cpu")
    size = (made.path / "model.safetensors").stat().st_size
    assert abs(told["merged"]["bytes"] / size - 1) < 0.01, (told["merged"], size)

    # What was made is told, with its checks, and the next one gets a name of its own.
    after = asked(**{"X-Language": "zh"})
    assert [each["what"] for each in after["made"]] == ["adapter", "merged", "gguf"]
    assert after["out"] == {what: f"{folder}/runs/small-{what}-2" for what in ("merged", "gguf")}
    merged, files = after["made"][1:]
    checks = {each["name"]: each for each in merged["checks"]}
    assert checks["agreement"]["status"] == "pass" and checks["agreement"]["bound"] and checks["agreement"]["evidence"]
    assert {each["status"] for each in files["checks"]} == {"not run"} and not files["forced"]
    assert {"Modelfile-f16", "small-q8_0.gguf"} <= {each["name"] for each in files["files"]}
    assert files["bytes"] == sum(each.stat().st_size for each in out.rglob("*") if each.is_file())
    of_run = {each["name"]: each["sentence"] for each in after["made"][0]["checks"]}
    assert (
        of_run["effect"]
        and of_run["effect"] != {e["name"]: e["sentence"] for e in asked()["made"][0]["checks"]}["effect"]
    )
    # Another run whose name begins alike has nothing to do with it.
    shutil.copytree(run, folder / "runs" / "small-gguf-copy")
    assert [each["name"] for each in asked()["made"]] == ["adapter", "small-merged", "small-gguf"]


def test_what_llama_cpp_alone_writes_is_told_where_it_is_missing(asked, monkeypatch):
    monkeypatch.setattr(native, "LIBRARIES", {})
    told = asked()
    lacking = {each["type"] for each in told["gguf"] if each["needs_extra"]}
    assert lacking == {"q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "iq4_nl", "iq4_xs"} and not told["extras"]["gguf"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"use_dora": True}, "gguf.lora_dora"), ({"modules_to_save": ["lm_head"]}, "gguf.lora_saved")],
)
def test_what_a_file_of_the_adapter_has_no_place_for_is_told(folder, asked, change, problem):
    shutil.copytree(folder / "runs" / "small", folder / "runs" / "other", dirs_exist_ok=True)
    config = folder / "runs" / "other" / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    told = asked("other")
    assert told["lora_gguf"] == [] and [each["id"] for each in told["problems"]] == [problem]
    assert told["gguf"] and told["merged"]


def test_a_model_tuned_in_full_has_nothing_to_merge_and_a_base_that_is_gone_is_told(folder, asked):
    run = folder / "runs" / "whole"
    shutil.copytree(folder / "runs" / "small", run)
    shutil.rmtree(run / "adapter")
    assert client(house(folder)).get("/api/runs/whole/exports").json()["problems"][0]["id"] == "runs.no_result"
    nano = Path(sizes.__file__).parents[1] / "nano" / "base"
    shutil.copytree(nano, run / "model")
    told = asked("whole")
    assert told["merged"] is None and told["lora_gguf"] == [] and not told["problems"]
    assert told["gguf"] == asked()["gguf"]
    gone = folder / "runs" / "gone"
    shutil.copytree(folder / "runs" / "small", gone)
    text = (gone / "recipe.yaml").read_text()
    assert "path: nano" in text
    (gone / "recipe.yaml").write_text(text.replace("path: nano", "path: /nowhere/base"))
    told = asked("gone")
    assert told["gguf"] == [] and told["problems"][0]["id"].startswith("hub.") and told["adapter"]["bytes"] > 0


def test_sizes_of_a_model_are_by_its_tensors_alone():
    """By hand: nano in f32 is four bytes a parameter, and its vocabulary."""
    base = Path(sizes.__file__).parents[1] / "nano" / "base"
    arch = sizes.families.read(base)
    words = (base / "tokenizer.json").stat().st_size
    assert sizes._gguf(arch, base)["f32"] == 4 * arch.num_parameters + words


def test_no_weight_is_loaded_for_it():
    code = "import sys\nfrom luthier.export import sizes\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
