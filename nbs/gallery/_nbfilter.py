"Quarto looks for a filter in the notebook's own folder: this one hands over to `nbs/_nbfilter.py`."
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1]/'_nbfilter.py'), run_name='__main__')
