"""Faults to plant: each must be noticed by the test that is named with it.

What goes in: nothing. What comes out: a literal table. `tests/test_mutations.py` holds every line to the code as it is
(the old text stands in its file exactly once, the test exists) and, with `--long`, plants each into a copy.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """A fault: `old` in `luthier/<file>` becomes `new`, and `test` (a file of tests/ and a function) must fail."""

    file: str
    old: str
    new: str
    test: str


MUTATIONS: dict[str, Mutation] = {
    # ------------------------------------------------------------------------------------------------ the step
    "loss is normalised per micro-batch": Mutation(
        "engine/loop.py",
        "value / step.denom[term] for term",
        "value / float(batch.weights[term].sum()) for term",
        "test_loop.py::test_a_step_is_the_weighted_mean_over_the_whole_step_however_it_is_split",
    ),
    "a step that is not finite is applied": Mutation(
        "engine/loop.py",
        "if finite and math.isfinite(loss):",
        "if not job.backend.loss_scaling or (finite and math.isfinite(loss)):",
        "test_loop.py::test_a_spoilt_step_is_left_out_and_the_log_tells_loss_from_gradient",
    ),
    "faults in a row are never forgiven": Mutation(
        "engine/loop.py",
        "state.bad_streak = 0",
        "pass",
        "test_loop.py::test_three_in_a_row_end_it_and_a_good_step_forgives",
    ),
    "the best slot takes the worst": Mutation(
        "engine/loop.py",
        "loss < state.best_loss",
        "loss > state.best_loss",
        "test_loop.py::test_the_best_slot_holds_the_weights_of_the_lowest_validation_loss",
    ),
    "the last weights ship instead of the best": Mutation(
        "finish.py",
        "shipped = checkpoint.load(run.best_dir(state.best_step), job.named, None)",
        "shipped = state",
        "test_train.py::test_the_weights_with_the_lowest_validation_loss_are_the_ones_that_ship",
    ),
    "the best weights that a checkpoint refers to are deleted": Mutation(
        "engine/loop.py",
        "for step in (*known, state.best_step) if",
        "for step in (state.best_step,) if",
        "test_train.py::test_the_best_weights_of_a_time_that_was_taken_back_do_not_ship",
    ),
    "gradients are not clipped": Mutation(
        "engine/optim.py",
        "torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)",
        "pass",
        "test_optim.py::test_clipping_scales_the_joint_norm",
    ),
    "the schedule forgets the warm-up": Mutation(
        "engine/optim.py",
        "(step - warmup) / max(num_steps - warmup, 1)",
        "step / num_steps",
        "test_optim.py::test_after_the_warm_up_each_schedule_is_the_field_s",
    ),
    "weight decay pulls at norms and biases": Mutation(
        "engine/optim.py",
        '"weight_decay": 0.0}',
        '"weight_decay": optim.weight_decay}',
        "test_optim.py::test_weight_decay_spares_vectors",
    ),
    # ------------------------------------------------------------------------------------------------ resume
    "a resume forgets the optimizer's state": Mutation(
        "engine/checkpoint.py",
        "optim.load_state_tensors(optimizer, named, load_file(folder / OPTIMIZER))",
        "load_file(folder / OPTIMIZER)",
        "test_loop.py::test_resumed_from_any_checkpoint_every_bit_is_the_same",
    ),
    "a resume forgets the optimizer's step counter": Mutation(
        "engine/optim.py",
        "            if isinstance(value, Tensor):\n",
        "            if isinstance(value, Tensor) and value.ndim:\n",
        "test_optim.py::test_state_through_tensors_continues_to_the_same_bits",
    ),
    "a resume repeats a step": Mutation(
        "engine/checkpoint.py",
        "return TrainState(**fields)",
        'return TrainState(**{**fields, "step": max(fields["step"] - 1, 0)})',
        "test_loop.py::test_resumed_from_any_checkpoint_every_bit_is_the_same",
    ),
    "every epoch has the order of the first one asked for": Mutation(
        "data/stream.py",
        "if self._order is None or self._order[0] != epoch:",
        "if self._order is None:",
        "test_stream.py::test_any_step_can_be_asked_for_first",
    ),
    "the last short step is left out": Mutation(
        "data/stream.py",
        "return -(-size // self._batch)",
        "return size // self._batch",
        "test_stream.py::test_an_epoch_holds_every_example_once_and_keeps_its_short_last_step",
    ),
    # ------------------------------------------------------------------------------------------------ runs
    "an adapter is trained further on another base": Mutation(
        "parent.py",
        "if any(then.get(part) != base.get(part) for",
        "if any(then.get(part) is None for",
        "test_train.py::test_a_parent_of_another_base_is_refused_and_a_strange_one_is_noted",
    ),
    "the parent's template is dropped": Mutation(
        "parent.py",
        'if parent is None or config.data.template != "model" or',
        'if True or config.data.template != "model" or',
        "test_train.py::test_a_parent_is_a_name_a_run_or_its_adapter_and_only_the_adapter_counts",
    ),
    "a resume follows the branch of the hub": Mutation(
        "training.py",
        "model = pinned(model, manifest.load(begun).base)",
        "pass",
        "test_runs_cli.py::test_a_resume_reads_the_commit_that_the_run_began_with",
    ),
    "a repetition trains on other data": Mutation(
        "training.py",
        'raise RunError(Problem("runs.other_inputs", where, each.field, values=each._asdict()) for each in changed)',
        "pass",
        "test_train.py::test_reproduce_refuses_other_inputs_before_it_trains_and_keeps_trackers_out",
    ),
    "a start that failed binds the next one": Mutation(
        "runs/store.py",
        "if not self.has_begun:",
        "if False:",
        "test_runs_store.py::test_a_start_that_failed_binds_nothing",
    ),
    "what verify cannot use counts as passed": Mutation(
        "runs/verify.py",
        '"not run" if gone else "fail", "", evidence',
        '"pass", "", evidence',
        "test_runs_cli.py::test_what_differs_fails_and_what_is_gone_is_not_run_and_the_rest_is_still_checked",
    ),
    "chat answers with another config.json": Mutation(
        "session.py",
        'parts = {"sha256": "*.safetensors", "config_sha256": "config.json"}',
        'parts = {"sha256": "*.safetensors"}',
        "test_runs_cli.py::test_chat_does_not_answer_with_another_config",
    ),
    "a run is made shorter by extending it": Mutation(
        "runs/commands.py",
        "if new <= old:",
        "if new < 0:",
        "test_runs_cli.py::test_a_run_is_stopped_shown_resumed_extended_compared_and_reproduced",
    ),
    "a resume keeps a budget that does not fit": Mutation(
        "planning.py",
        "if smallest.fits and saved is not None:",
        "if smallest.fits and saved is None:",
        "test_train.py::test_less_memory_on_a_resume_makes_a_smaller_budget_and_says_so",
    ),
    # ------------------------------------------------------------------------------------------------ dropout
    "dropout is the same in every step": Mutation(
        "kernels/dropout.py",
        "mix(mix(key.seed & 0xFFFFFFFF) ^ (key.step & 0xFFFFFFFF))",
        "mix(mix(key.seed & 0xFFFFFFFF))",
        "test_kernels_dropout.py::test_mask_depends_on_every_part_of_its_key_and_not_on_the_row",
    ),
    "dropout is the same at every position": Mutation(
        "kernels/dropout.py",
        ".bitwise_xor_(_low_word(position_N))",
        "",
        "test_kernels_dropout.py::test_mask_is_its_plain_definition",
    ),
    "survivors of dropout are not scaled": Mutation(
        "kernels/dropout.py",
        "return LEVELS / (LEVELS - self.threshold)",
        "return 1.0",
        "test_kernels_dropout.py::test_survivors_make_up_for_the_dropped",
    ),
    # ------------------------------------------------------------------------------------------------ kernels
    "the backward pass goes below what trains": Mutation(
        "kernels/autograd.py",
        "need_h, need_norm, need_q_norm, need_k_norm = wanted[3:7]",
        "need_h, need_norm, need_q_norm, need_k_norm = True, *wanted[4:7]",
        "test_decoder.py::test_a_step_does_exactly_the_counted_matmuls",
    ),
    "a continuation does not see its prompt": Mutation(
        "kernels/attention.py",
        "segment = int(self.parent[segment])",
        "segment = -1",
        "test_kernels_attention.py::test_equals_masked_softmax_forward_and_backward",
    ),
    "attention sees one token ahead": Mutation(
        "kernels/attention.py",
        "seen = other <= place_Q1",
        "seen = other <= place_Q1 + 1",
        "test_kernels_attention.py::test_attention_of_the_last_rows",
    ),
    "a window reads more keys than it reaches": Mutation(
        "kernels/attention.py",
        "lowest = max(before + first - window + 1, 0)",
        "lowest = max(before + first - window, 0)",
        "test_kernels_attention.py::test_every_row_is_attended_once_and_reads_only_what_its_window_reaches",
    ),
    "the cache shows tokens that are not there": Mutation(
        "kernels/attention.py",
        "seen_BT = place_T < lengths_B[:, None]",
        "seen_BT = place_T <= lengths_B[:, None]",
        "test_kernels_attention.py::test_cached_attention_equals_that_over_the_whole_sequence",
    ),
    "a chosen row sees one token ahead": Mutation(
        "kernels/attention.py",
        "_sees(self.row_Q1 + self.offset,",
        "_sees(self.row_Q1 + self.offset + 1,",
        "test_kernels_attention.py::test_chosen_rows_are_attended_as_if_all_were",
    ),
    "chosen rows read the keys of their whole segment": Mutation(
        "kernels/attention.py",
        "keys = _clip(path, lowest, highest + 1)",
        "keys = _clip(path, lowest, 10**9)",
        "test_kernels_attention.py::test_chosen_rows_read_no_key_beyond_the_last_of_their_block",
    ),
    "the last layer computes every query": Mutation(
        "models/decoder.py",
        "if 0 < len(rows_U) < batch.num_tokens:",
        "if len(rows_U) < 0:",
        "test_decoder.py::test_a_step_does_exactly_the_counted_matmuls",
    ),
    "scored rows drop the features of others": Mutation(
        "models/decoder.py",
        "return dropped if dropped is None or rows_U is None else dropped.at(rows_U)",
        "return dropped if dropped is None or rows_U is None else dropped.at(rows_U * 0)",
        "test_decoder.py::test_a_last_layer_of_scored_rows_equals_a_whole_one",
    ),
    "the gradient of chosen queries does not reach the rows' input": Mutation(
        "kernels/blocks.py",
        "dx_ND.index_add_(0, rows_U, dx_UD)",
        "pass",
        "test_decoder.py::test_a_last_layer_of_scored_rows_equals_a_whole_one",
    ),
    "drop_mlp keeps gate and up": Mutation(
        "kernels/autograd.py",
        'made if keep == "all" else [None] * 4',
        "made if keep else [None] * 4",
        "test_planner.py::test_layers_keep_what_is_planned_to_the_byte",
    ),
    "a layer that is run again drops other features": Mutation(
        "kernels/autograd.py",
        "saved = blocks.mlp_again(kept, linears, ctx.shape)",
        "saved = blocks.mlp_again(kept, linears, blocks.MlpShape(ctx.shape.eps, ctx.shape.act))",
        "test_decoder.py::test_no_bit_depends_on_what_layers_keep",
    ),
    "a layer that is run again computes down": Mutation(
        "models/decoder.py",
        '"unread" if again else "all"',
        '"all"',
        "test_decoder.py::test_a_step_does_exactly_the_counted_matmuls",
    ),
    "drop_layer keeps everything": Mutation(
        "models/decoder.py",
        "return autograd.recomputed(compute, h_ND, self._trained(run.adapter))",
        "return compute(h_ND, False)",
        "test_planner.py::test_layers_keep_what_is_planned_to_the_byte",
    ),
    "offloaded layers stay on the device": Mutation(
        "kernels/offload.py",
        "            yield\n        layer.let_go()",
        "            yield",
        "test_kernels_offload.py::test_each_memory_goes_once_and_nothing_that_stays",
    ),
    "offloaded layers are fetched when they are needed, not before": Mutation(
        "kernels/offload.py",
        "self.below.fetch()",
        "pass",
        "test_kernels_offload.py::test_the_layer_below_is_fetched_ahead_and_the_one_above_let_go",
    ),
    "layers keep less from the top down": Mutation(
        "planner.py",
        "return tuple(policy(index) for index in range(count))",
        "return tuple(policy(index) for index in reversed(range(count)))",
        "test_planner.py::test_the_stack_computes_least_again_of_all_that_fit",
    ),
    "what is formed again takes no memory": Mutation(
        "planner.py",
        "most = max(most, held + _formed_again_bytes(spec, load, index, policies))",
        "most = max(most, held)",
        "test_planner.py::test_the_peak_moves_with_the_policy_as_planned",
    ),
    "a resume forgets what layers kept": Mutation(
        "planning.py",
        "memory = plan(asked, fixed or (_possible(_saved_policies(base, saved), chosen) if saved else None))",
        "memory = plan(asked, fixed)",
        "test_train.py::test_a_saved_plan_s_policies_are_obeyed_and_may_be_changed",
    ),
    "less memory makes the budget smaller before layers keep less": Mutation(
        "planning.py",
        "        memory = plan(asked, fixed)\n",
        "        pass\n",
        "test_train.py::test_less_memory_on_a_resume_makes_layers_keep_less_at_the_same_bits",
    ),
    "rotary's backward pass turns forward": Mutation(
        "kernels/rotary.py",
        "return _swap(x_NHE * sin_N1E, rope).addcmul_(x_NHE, cos_N1E)",
        "return (_swap(x_NHE, rope) * sin_N1E).addcmul_(x_NHE, cos_N1E)",
        "test_kernels_rotary.py::test_rotation_is_its_definition_and_backward_its_adjoint",
    ),
    "llama3's long wavelengths are not slowed down": Mutation(
        "kernels/rotary.py",
        'return (1 - stay_F) * base_F / scaling["factor"] + stay_F * base_F',
        "return (1 - stay_F) * base_F + stay_F * base_F",
        "test_kernels_rotary.py::test_tables_equal_those_of_transformers",
    ),
    "keys are not normed": Mutation(
        "kernels/blocks.py",
        "q, k = q_kept.normed(), k_kept.normed()",
        "q = q_kept.normed()",
        "test_kernels_blocks.py::test_attention_inputs",
    ),
    "the norm's gradient ignores its mean": Mutation(
        "kernels/norm.py",
        ".addcmul_(xhat, mean, value=-1)",
        "",
        "test_kernels_blocks.py::test_rms_norm",
    ),
    "linear head: the gradient is not scaled back": Mutation(
        "kernels/head.py",
        "factor = dtotal * largest",
        "factor = dtotal",
        "test_kernels_head.py::test_linear_mode",
    ),
    "unit head: the gradient is not scaled": Mutation(
        "kernels/head.py",
        "(unit_MD * dlogp_M[:, None])",
        "(unit_MD * 1)",
        "test_kernels_head.py::test_modes_for_any_loss",
    ),
    "recomputing head: every row counts alike": Mutation(
        "kernels/head.py",
        "False, dlogp_M, need)",
        "False, torch.ones_like(dlogp_M), need)",
        "test_kernels_head.py::test_modes_for_any_loss",
    ),
    "softmax overflows": Mutation(
        "kernels/head.py",
        "tile -= tile.amax(-1, keepdim=True)",
        "tile -= 0",
        "test_kernels_head.py::test_extreme_logits_stay_finite",
    ),
    # ------------------------------------------------------------------------------------------------ adapters
    "adapters are not scaled": Mutation(
        "kernels/linear.py",
        "(linear.b_OR * _scale(linear, drop)).to(dtype)",
        "linear.b_OR.to(dtype)",
        "test_kernels_blocks.py::test_attention_output",
    ),
    "rsLoRA is plain LoRA": Mutation(
        "arch/count.py",
        "return alpha / math.sqrt(rank) if lora.rslora else alpha / rank",
        "return alpha / rank",
        "test_adapters.py::test_peft_and_a_merged_model_say_what_the_adapter_says",
    ),
    "merging forgets the scale": Mutation(
        "models/adapters.py",
        "delta.B, delta.A, alpha=delta.scale)",
        "delta.B, delta.A)",
        "test_adapters.py::test_peft_and_a_merged_model_say_what_the_adapter_says",
    ),
    "a target that matches nothing is passed over": Mutation(
        "arch/count.py",
        "if not any(ends_with(unit.name, target) for unit in arch.units):",
        "if not arch.units:",
        "test_families.py::test_what_matches_nothing_is_an_error_that_lists_what_exists",
    ),
    "a tied head is trained apart": Mutation(
        "arch/count.py",
        "if not any(ends_with(EMBEDDING, other) for other in lora.modules_to_save):",
        "if not lora.modules_to_save:",
        "test_families.py::test_what_matches_nothing_is_an_error_that_lists_what_exists",
    ),
    # ------------------------------------------------------------------------------------------------ weights, hub
    "missing weights stay as memory had them": Mutation(
        "models/weights.py",
        "[name for name in arch.tensors if name not in stored]",
        "[]",
        "test_weights.py::test_what_does_not_fit_is_listed",
    ),
    "another head than the tied one is passed over": Mutation(
        "models/weights.py",
        'Problem("models.head_differs", str(stored[head].file))',
        "*()",
        "test_weights.py::test_rotary_tables_and_a_redundant_head_are_allowed",
    ),
    "401 without a token does not tell of tokens": Mutation(
        "models/hub_huggingface.py",
        '(status == 401 and not token, "hub.not_found_no_token")',
        '(status == 401 and not token, "hub.bad_token")',
        "test_hub.py::test_a_private_model_looks_missing_without_a_token",
    ),
    # ------------------------------------------------------------------------------------------------ data
    "prompt and training may differ": Mutation(
        "data/laws.py",
        "if prompt == training[:first]:",
        "if len(prompt) == len(training[:first]):",
        "test_templates.py::test_a_prompt_of_other_tokens_is_a_violation",
    ),
    "the stop token is not learnt": Mutation(
        "data/lessons.py",
        "weights[span.first : span.stop + 1]",
        "weights[span.first : span.stop]",
        "test_templates.py::test_learnt_text_is_the_answer_and_its_stop_token",
    ),
    "two first tokens are passed over": Mutation(
        "data/laws.py",
        "ids[:2] != [bos, bos]",
        "ids[:3] != [bos, bos, bos]",
        "test_templates.py::test_two_first_tokens_are_a_violation",
    ),
    "typed control tokens are control tokens": Mutation(
        "data/spans.py",
        "marked = self._guard.touches(rows) or self._guard.touches(list(tools))",
        "marked = False",
        "test_templates.py::test_typed_control_tokens_stay_words",
    ),
    "a prompt's tokens are remembered whatever opens it": Mutation(
        "data/spans.py",
        "self._stretches.get((stretch, meant, prepared))",
        "next((known for key, known in self._stretches.items() if (key[0], key[2]) == (stretch, prepared)), None)",
        "test_templates.py::test_what_was_rendered_before_does_not_matter",
    ),
    "words that are told wrong are believed": Mutation(
        "data/lessons.py",
        "and all(map(np.array_equal, mine, other))",
        "",
        "test_words.py::test_words_that_are_told_wrong_are_noticed",
    ),
    "a text that is told wrong is believed": Mutation(
        "data/vocabulary.py",
        "not np.array_equal(first[0], self._ids_of([first[1]])[0])",
        "False",
        "test_words.py::test_words_that_are_told_wrong_are_noticed",
    ),
    "an answer begins within a word": Mutation(
        "data/learnt.py",
        "if alone is None or split.words[word : word + len(alone)] != alone:",
        "if alone is None:",
        "test_words.py::test_conversations_have_the_ids_and_weights_that_the_tokenizer_gives",
    ),
    "a character of another kind is told by words": Mutation(
        "data/words.py",
        "if pieces != [probe[start:end] for _, (start, end) in cuts]:",
        "if not cuts:",
        "test_words.py::test_a_character_that_the_engines_take_for_different_kinds_is_not_told",
    ),
    "what stands between words is lost": Mutation(
        "data/words.py",
        'if len("".join(words)) == len(text):',
        "if words:",
        "test_words.py::test_ids_are_the_tokenizers",
    ),
    "a helper's block is lost with it": Mutation(
        "data/helpers.py",
        "return maker.make(rows) if found is None else found",
        "return maker.make([]) if found is None else found",
        "test_helpers.py::test_a_helper_that_dies_costs_no_row",
    ),
    "rows that are too long do not stop": Mutation(
        "data/sequences.py",
        'if self.too_long is not None and policy == "stop":',
        'if self.too_long is not None and policy == "never":',
        "test_tokens.py::test_long_rows_stop_with_a_table",
    ),
    "rows that are too long are cut instead of dropped": Mutation(
        "data/sequences.py",
        'if policy == "drop":',
        'if policy == "never":',
        "test_tokens.py::test_dropped_rows_are_accounted_for",
    ),
    "a cut row ends with a stop token": Mutation(
        "data/sequences.py",
        "ends[place] = starts[place] + max_tokens",
        "starts[place], ends[place] = ends[place] - max_tokens, ends[place]",
        "test_tokens.py::test_truncated_rows_are_cut_without_a_false_end",
    ),
    "a file that was edited meets the tokens it had before": Mutation(
        "data/tokens.py",
        "parts: list[Any] = [FORMAT, read,",
        "parts: list[Any] = [FORMAT, scan.path.name,",
        "test_tokens.py::test_whatever_changes_ids_makes_another_store",
    ),
    "a killed build begins a block too late": Mutation(
        "data/tokens.py",
        "lambda: max(self._done - self._rows, 0)",
        "lambda: 0",
        "test_tokens.py::test_a_build_that_was_killed_goes_on_where_it_stopped",
    ),
    "rows of another file are gone on with": Mutation(
        "data/tokens.py",
        "if self._known[first : first + old].tobytes() != block.table.hashes[:old].tobytes():",
        "if self._known is None:",
        "test_tokens.py::test_a_beginning_with_other_rows_is_not_gone_on_with",
    ),
    "a row that cannot be rendered is forgotten with the process": Mutation(
        "data/tokens.py",
        "if self._problems or time.monotonic()",
        "if time.monotonic()",
        "test_tokens.py::test_a_row_that_cannot_be_rendered_is_named_after_an_interruption_too",
    ),
    "a file edited while it is read keeps its old hash": Mutation(
        "data/tokens.py",
        'if account.sha256 not in ("", read):',
        "if account.sha256 is None:",
        "test_tokens.py::test_a_file_that_changes_between_its_hash_and_its_rows_is_refused",
    ),
    "looking into words is not noticed": Mutation(
        "data/traced.py",
        "        self.seen.append(name)\n        return method",
        "        return method",
        "test_shapes.py::test_words_that_are_looked_into_are_rendered_each_time",
    ),
    "a store that was changed is believed": Mutation(
        "data/store.py",
        "    if known == stamps:",
        "    if known is not None:",
        "test_tokens.py::test_a_damaged_store_is_built_again",
    ),
    "a file may change between two readings": Mutation(
        "data/check.py",
        "if kept.hash != file.table.hashes[row].tobytes():",
        "if kept.hash is None:",
        "test_check.py::test_a_file_that_changes_between_two_readings_is_noticed",
    ),
    "a copy of a held-out row is trained on": Mutation(
        "data/split.py",
        "return chosen[groups.of_row]",
        "return np.isin(np.arange(len(groups.of_row)), groups.firsts[chosen])",
        "test_check.py::test_no_copy_of_a_held_out_row_is_trained",
    ),
    "near duplicates are parted by the split": Mutation(
        "data/split.py",
        "together = equal if pairs is None or not len(pairs.later) else equal.joined(pairs)",
        "together = equal",
        "test_check.py::test_no_near_duplicate_of_a_held_out_row_is_trained",
    ),
    "large groups of near duplicates leave nothing to validate": Mutation(
        "data/split.py",
        "held_out.sum() < PARTED_BELOW * wanted",
        "held_out.sum() < 0",
        "test_check.py::test_groups_too_large_to_be_held_out_are_parted_and_told",
    ),
    "targets are one token off": Mutation(
        "data/pack.py",
        "following = np.concatenate([e.ids[1 : n + 1] for",
        "following = np.concatenate([e.ids[:n] for",
        "test_pack.py::test_one_batch_by_hand",
    ),
    # ------------------------------------------------------------------------------------------------ the recipe
    "unknown keys of a recipe are ignored": Mutation(
        "config/schema.py",
        'extra="forbid"',
        'extra="ignore"',
        "test_config.py::test_nearest_name",
    ),
    "steps do not take the place of epochs": Mutation(
        "config/tree.py",
        "        self._supersede(name, value)\n",
        "",
        "test_config.py::test_steps_take_the_place_of_the_recipes_epochs_and_back",
    ),
    # ------------------------------------------------------------------------------------------------ findings
    "validation rows like trained ones are no leak": Mutation(
        "data/findings.py",
        "across = validation[pairs.later] & ~validation[pairs.earlier]",
        "across = validation[pairs.later] & validation[pairs.earlier]",
        "test_findings.py::test_near_duplicates_between_training_and_validation_are_leaks",
    ),
    "the report shows secrets": Mutation(
        "data/findings.py",
        "secrets.covered(answer) if found else answer",
        "answer",
        "test_findings.py::test_secrets_are_never_shown",
    ),
    "other files get the findings of the first one": Mutation(
        "data/survey.py",
        "for store, file in zip(stores, files, strict=True)]]",
        "for store, file in zip(stores[:1], files, strict=False)]]",
        "test_survey.py::test_a_later_run_reads_nothing_and_an_edited_file_is_read",
    ),
    "training says nothing of what stands in rows": Mutation(
        "training.py",
        "for line in findings.brief(",
        "for line in () and findings.brief(",
        "test_train.py::test_what_rows_hold_is_told_once_and_written_down",
    ),
    "the page lets data in as HTML": Mutation(
        "data/report_page.py",
        "<p>{escape(rule)}</p>",
        "<p>{rule}</p>",
        "test_report.py::test_the_page_is_whole_and_needs_nothing_else",
    ),
    "empty bins of a signature stay empty": Mutation(
        "data/near.py",
        "        table[row, bin] = lent",
        "        table[row, bin] = table[row, bin]",
        "test_near.py::test_against_every_pair",
    ),
    "a sample parts rows that are alike": Mutation(
        "data/near.py",
        "np.where(smallest < _NO_RUN, smallest, contents)",
        "contents",
        "test_near.py::test_a_sample_keeps_pairs_together_and_memory_bounded",
    ),
    "a shared instruction makes rows alike": Mutation(
        "data/near.py",
        "max(FRAME_LEAST_ROWS, FRAME_SHARE * len(texts))",
        "max(FRAME_LEAST_ROWS, len(texts))",
        "test_near.py::test_a_long_instruction_before_every_question_makes_no_duplicates",
    ),
    "a hundred copies of a row are taken for a form": Mutation(
        "data/near.py",
        "np.maximum(FRAME_LEFT, FRAME_LEFT_SHARE * pieces)",
        "FRAME_LEFT",
        "test_near.py::test_a_group_of_near_duplicates_is_no_form",
    ),
    "what many rows share is learnt from the first rows": Mutation(
        "data/near.py",
        "        if content < self._bound:",
        "        if len(self._texts) < FRAME_ROWS:",
        "test_near.py::test_what_many_rows_share_is_learnt_wherever_it_stands",
    ),
    "cutting a row costs all of it": Mutation(
        "data/statistics.py",
        "int(long.sum()) - max_tokens * len(long)",
        "int(long.sum())",
        "test_findings.py::test_lengths_in_tokens",
    ),
    # ------------------------------------------------------------------------------------------------ the run folder
    "rows that do not add up pass": Mutation(
        "runs/receipt.py",
        "if file.kept + sum(file.excluded.values()) != file.read",
        "if file.kept > file.read",
        "test_receipt.py::test_rows_that_do_not_add_up_fail",
    ),
    "checks that nobody made count as passed": Mutation(
        "runs/receipt.py",
        'missing = {name: Check(name, "not run") for name in CHECKS}',
        'missing = {name: Check(name, "pass") for name in CHECKS}',
        "test_receipt.py::test_receipt_adds_up",
    ),
    "a checkpoint's hashes are not compared": Mutation(
        "runs/slots.py",
        'if files.fingerprint(path)["sha256"] != digest:',
        'if not files.fingerprint(path)["sha256"]:',
        "test_runs_store.py::test_damaged_checkpoint_is_passed_over_and_kept",
    ),
    "steps of a killed attempt count twice": Mutation(
        "runs/events.py",
        "kept = [old for old in kept if old.step is None or (start > 0 and old.step <= start)]",
        "kept = list(kept) if start >= 0 else []",
        "test_runs_events.py::test_resumed_steps_take_the_place_of_later_ones",
    ),
    "a run is resumed where the command is given": Mutation(
        "runs/store.py",
        "home / below != path.parent or home == Path.cwd()",
        "home / below == path.parent",
        "test_train.py::test_relative_paths_count_from_where_the_run_was_started",
    ),
    "two processes may write a run": Mutation(
        "runs/lock.py",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        "test_runs_store.py::test_second_writer_is_told_who_the_first_is",
    ),
    "tokens are written into the run folder": Mutation(
        "runs/files.py",
        "content, temp = redact(text).encode(), temp_name(path)",
        "content, temp = text.encode(), temp_name(path)",
        "test_runs_store.py::test_secrets_reach_no_file",
    ),
    # ------------------------------------------------------------------------------------------------ importing
    "a key of another program's recipe is dropped without a word": Mutation(
        "importing/draft.py",
        "        for key in [key for key in self.given if key not in self.used | self._noted]:",
        "        for key in ():",
        "test_importing.py::test_what_changes_nothing_is_told_too",
    ),
    "a key of a data set is dropped without a word": Mutation(
        "importing/draft.py",
        "        part.findings = self.findings",
        "        pass",
        "test_importing_data.py::test_what_an_entry_says_and_a_source_cannot_say_is_told",
    ),
    "an input that the file's recipe does not read is read": Mutation(
        "importing/rows.py",
        'if "input" in names:',
        "if True:",
        "test_importing_data.py::test_columns_and_tags_are_read_as_the_catalogue_says",
    ),
    "a role by a name that is known keeps its meaning here": Mutation(
        "importing/rows.py",
        "if READ_ROLES.get(name) != role}",
        "if name not in READ_ROLES}",
        "test_importing_data.py::test_columns_and_tags_are_read_as_the_catalogue_says",
    ),
    "a part of a split passes for the whole": Mutation(
        "importing/rows.py",
        'draft.note("split", "not yet", "split_part")\n        given',
        "given",
        "test_importing_data.py::test_places_of_data_sets",
    ),
    "the batch of several devices counts one": Mutation(
        "importing/trainer.py",
        "per_device * accumulated * devices",
        "per_device * accumulated",
        "test_importing.py::test_a_llama_factory_recipe_becomes_one_of_ours",
    ),
    "a row of a new token stays where it started": Mutation(
        "models/adapters.py",
        "TokenRows(arch.new_ids, start_TD).requires_grad_(trainable)",
        "TokenRows(arch.new_ids, start_TD).requires_grad_(False)",
        "test_new_tokens.py::test_peft_and_a_merged_model_say_what_the_rows_say",
    ),
    "the head forgets the rows of new tokens": Mutation(
        "models/decoder.py",
        "want.mode, want.coefficients, want.entropy, rows)",
        "want.mode, want.coefficients, want.entropy)",
        "test_new_tokens.py::test_loss_and_gradients_of_a_step_are_pefts",
    ),
    "the base's own column counts beside the new row's": Mutation(
        "kernels/head.py",
        "logits_CV.index_fill_(1, rows.ids_T, 0)[:, : len(weight_VD)]",
        "logits_CV[:, : len(weight_VD)]",
        "test_new_tokens.py::test_rows_in_place_of_the_heads_own",
    ),
    "untrained padding counts in the mean": Mutation(
        "models/weights.py",
        "weight_VD[: arch.new_ids[0]].detach()",
        "weight_VD.detach()",
        "test_new_tokens.py::test_new_rows_start_as_the_mean_of_those_in_use",
    ),
    "training of another kind passes for the same": Mutation(
        "importing/draft.py",
        "        self.missed = True",
        "        pass",
        "test_importing.py::test_a_stage_that_is_not_here_is_said_loudly",
    ),
    # ------------------------------------------------------------------------------------------------ generation
    "a stop token does not stop": Mutation(
        "generate.py",
        "if token in stops:",
        "if token in stops and not sampling.max_tokens:",
        "test_generate.py::test_a_stop_token_ends_an_answer_and_is_not_part_of_it",
    ),
    "top-p leaves out the token that crosses it": Mutation(
        "generate.py",
        "before >= sampling.top_p)",
        "before + ordered.softmax(-1) >= sampling.top_p)",
        "test_generate.py::test_top_p_as_in_transformers",
    ),
    # ------------------------------------------------------------------------------------------------ asking
    "raw prompts are put through the chat template": Mutation(
        "session.py",
        "if not (isinstance(conversation, str) and self.continues_text):",
        "if not (isinstance(conversation, str) and self.continues_text and not self.renderer.template_source):",
        "test_session.py::test_a_bare_question_is_the_prompt_that_raw_rows_were_trained_on",
    ),
    "what the rows were is forgotten with the run": Mutation(
        "data/templates.py",
        '            "trained": self.trained,\n',
        "",
        "test_session.py::test_the_shape_of_the_rows_stands_beside_the_weights",
    ),
    "another template is taken for a run and ignored": Mutation(
        "session.py",
        'if template != "model":',
        'if template == "":',
        "test_session.py::test_a_run_takes_no_other_template",
    ),
    "Ctrl-C ends the chat with the answer": Mutation(
        "chat.py",
        "if time.monotonic() - stopped_s < AGAIN_S:",
        "if time.monotonic():",
        "test_session.py::test_ctrl_c_ends_the_answer_and_keeps_the_chat",
    ),
    "a mistyped path is looked for on a hub": Mutation(
        "models/hub.py",
        "if revision is None and Path(first).is_dir():",
        "if revision is None and Path(first).is_file():",
        "test_session.py::test_a_mistyped_run_asks_no_network_and_names_the_runs",
    ),
    "the structure is not printed": Mutation(
        "progress.py",
        'if data.get("structure"):',
        'if data.get("no structure"):',
        "test_cli_main_job.py::test_train_ends_well_and_says_how_to_talk_to_it",
    ),
    "a failed check leaves the exit code alone": Mutation(
        "cli.py",
        "return Outcome(value, lines, FAILED if receipt.failed else OK)",
        "return Outcome(value, lines, OK)",
        "test_cli_main_job.py::test_a_check_that_fails_fails_the_command",
    ),
    "files of a collapsed model always pass": Mutation(
        "proof.py",
        "return largest / scale if scale else math.inf",
        "return largest / scale if scale else 0.0",
        "test_proof.py::test_the_check_of_a_collapsed_model_tells_its_files_apart",
    ),
    # ------------------------------------------------------------------------------------------------ files and formats
    "a key given twice in a row takes the last": Mutation(
        "data/strict_json.py",
        "if len(made) != len(pairs):",
        "if False:",
        "test_readers.py::test_a_bad_line_is_named_and_the_others_are_read",
    ),
    "nesting has no bound": Mutation(
        "data/strict_json.py",
        'return lists + text.count("{", start, end) > MAX_DEPTH',
        "return lists > 10**9",
        "test_readers.py::test_a_bad_line_is_named_and_the_others_are_read",
    ),
    "an Arrow stream that ends between two batches is whole": Mutation(
        "data/columnar.py",
        "if not raw.read().endswith(_STREAM_ENDS):",
        "if False:",
        "test_readers.py::test_arrow_cut_short",
    ),
    "sft takes both answers of a pair": Mutation(
        "data/examples.py",
        '"sft": (Chat, Completion)',
        '"sft": (Chat, Completion, Preference, Labelled)',
        "test_check.py::test_real_files_for_other_methods_are_refused",
    ),
    "two equal answers are a pair": Mutation(
        "data/judged.py",
        "    if better == worse:\n",
        "    if False:\n",
        "test_formats.py::test_bad_rows_name_the_field",
    ),
    "the worse answer is taken for the better": Mutation(
        "data/judged.py",
        "return Preference(asked, better, worse, tools, _margin(record))",
        "return Preference(asked, worse, better, tools, _margin(record))",
        "test_formats.py::test_good_rows",
    ),
    "bad answers marked 0 are learnt": Mutation(
        "data/judged.py",
        'label in ("true", "false") or _holds_answer(record)',
        'label in ("true", "false")',
        "test_formats.py::test_good_rows",
    ),
    "columns are offered that make other conversations": Mutation(
        "data/imitation.py",
        "parse(FORMATS[other].parse, names.apply(row)) == wanted",
        "parse(FORMATS[other].parse, names.apply(row)) is not None",
        "test_check.py::test_what_is_offered_to_imitate_answers_works",
    ),
    "the number of the better answer is not looked at": Mutation(
        "data/judged.py",
        "    better = int(record[CHOICE])\n",
        "    better = 0\n",
        "test_formats.py::test_good_rows",
    ),
    "the second of two numbered answers is taken for the better": Mutation(
        "data/detection.py",
        'if stems[re.sub(r"\\d+$", "", key)] == 1]',
        "]",
        "test_formats.py::test_answers_that_differ_in_a_number_are_not_guessed",
    ),
    "rows with a list of their own are taken for wrappers": Mutation(
        "data/readers.py",
        '_parses(first)[0] and (second.strip() or opening.ending(path) != ".json")',
        "False",
        "test_readers.py::test_the_content_decides_between_array_and_lines",
    ),
    "a row with an answer is a prompt alone": Mutation(
        "data/judged.py",
        "return all(_unanswered(each) for each in given)",
        "return True",
        "test_formats.py::test_good_rows",
    ),
    "a column whose name another takes is lost without a word": Mutation(
        "data/scan.py",
        "self.names.shadowed(raw) if self.names else ()",
        "",
        "test_check.py::test_columns_and_roles_of_a_source_are_renamed",
    ),
    "a folder gives hidden files": Mutation(
        "data/sources.py",
        'any(part.startswith((".", "_"))',
        'any(part.startswith("?")',
        "test_sources.py::test_a_folder_stands_for_its_data_files_in_order",
    ),
    "files of a folder that are not read are not told": Mutation(
        "data/sources.py",
        '"skipped": len(others)',
        '"skipped": 0',
        "test_sources.py::test_a_folder_stands_for_its_data_files_in_order",
    ),
    "a slice of a split gives the whole split": Mutation(
        "data/hub.py",
        "if not SPLIT.fullmatch(split):",
        "if False:",
        "test_sources.py::test_a_data_set_that_cannot_be_had",
    ),
    "the commit of a hub's rows is told in a note only": Mutation(
        "data/check.py",
        "made.origins.update(dict.fromkeys((scan.account.path for scan in files), found.origin))",
        "pass",
        "test_sources.py::test_where_rows_come_from_is_told_of_each_file",
    ),
    # ------------------------------------------------------------------------------------- the laws of rendering
    "an unrolled answer is followed by what came later": Mutation(
        "data/lessons.py",
        "yield Task(self.messages[: index + 1], self.tools, {index: weight})",
        "yield Task(self.messages, self.tools, {index: weight})",
        "test_templates.py::test_a_conversation_whose_history_is_rewritten_is_unrolled",
    ),
    "an unrolled row keeps its first answer only": Mutation(
        "data/lessons.py",
        "return found",
        "return found[:1]",
        "test_real_templates.py::test_ids_prompts_and_stops",
    ),
    "a field whose letters occur elsewhere counts as read": Mutation(
        "data/coverage.py",
        "return self._marked is None or self._mark(place) in self._marked",
        "return True",
        "test_templates.py::test_what_the_template_leaves_out_is_an_error_unless_accepted",
    ),
    "a field that is left out stops nothing": Mutation(
        "data/laws.py",
        "if field in coverage.LINKS or field in subject.accept_unread:",
        "if field:",
        "test_templates.py::test_what_the_template_leaves_out_is_an_error_unless_accepted",
    ),
    "tags around others' words are not looked at": Mutation(
        "data/laws.py",
        "*(at for at in tagged - allowed if at >= start)",
        "*()",
        "test_templates.py::test_a_tag_around_somebody_elses_words_is_a_violation",
    ),
    "answers that are not tagged are not looked at": Mutation(
        "data/laws.py",
        "for at in range(span.first, span.stop) if at not in tagged",
        "for at in range(span.first, span.first) if at not in tagged",
        "test_templates.py::test_tags_must_agree_with_rendering",
    ),
    "a control token in arguments that Python writes is a real one": Mutation(
        "data/vocabulary.py",
        "return with_marks(super().__repr__())",
        "return super().__repr__()",
        "test_templates.py::test_no_way_of_writing_makes_typed_control_tokens_real",
    ),
    "a control token at a cut is a real one": Mutation(
        "data/vocabulary.py",
        'words = f"{OPEN}({literals}){CLOSE}?|({literals}){CLOSE}"',
        'words = f"{OPEN}({literals}){CLOSE}|(?!)({literals})"',
        "test_templates.py::test_no_way_of_writing_makes_typed_control_tokens_real",
    ),
    "rows are not escaped on the page": Mutation(
        "data/marked.py",
        "return html.escape(visible(text))",
        "return visible(text)",
        "test_marked.py::test_the_page_stands_alone_and_escapes_everything",
    ),
    "a row may steer the terminal": Mutation(
        "data/marked.py",
        "return _CONTROL.sub(",
        "return text or _CONTROL.sub(",
        "test_marked.py::test_a_row_cannot_steer_the_terminal",
    ),
}
