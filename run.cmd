@echo off
rem The same as ./run, for Windows: finds a Python >= 3.11 and hands over to tools\run.py.
setlocal
set "check=import sys; sys.exit(sys.version_info < (3, 11))"
py -3 -I -S -c "%check%" >nul 2>nul
if not errorlevel 1 (
    py -3 -I "%~dp0tools\run.py" %*
    exit /b
)
python -I -S -c "%check%" >nul 2>nul
if not errorlevel 1 (
    python -I "%~dp0tools\run.py" %*
    exit /b
)
echo Luthier needs Python 3.11 or newer. Install it, then start run.cmd again: 1>&2
echo     winget install Python.Python.3.13 1>&2
exit /b 2
