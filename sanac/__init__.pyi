from sanac.api import Report as Report
from sanac.api import SanaModel as SanaModel
from sanac.api import open as open
from sanac.core.errors import SanacError as SanacError
from sanac.runtime.pipeline import load_pipeline as load_pipeline
from sanac.runtime.pipeline import load_transformer as load_transformer

__version__: str
