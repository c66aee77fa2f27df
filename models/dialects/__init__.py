"""Communication operators of other systems, read and written as ours; a dialect is a table."""

from .dialect import Dialect
from .infinitensor import INFINITENSOR
from .ort import ORT
from .ort_training import ORT_TRAINING
from .tensorrt import TENSORRT
from .working_group import WORKING_GROUP

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect for dialect in (ORT, ORT_TRAINING, TENSORRT, WORKING_GROUP, INFINITENSOR)
}
