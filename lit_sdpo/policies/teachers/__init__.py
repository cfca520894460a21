"""Teachers: what gives SDPO its targets. ``base`` has the contract, the other files what follows it."""

from lit_sdpo.policies.teachers.base import Clock as Clock
from lit_sdpo.policies.teachers.base import Reads as Reads
from lit_sdpo.policies.teachers.base import StagePolicy as StagePolicy
from lit_sdpo.policies.teachers.base import Teacher as Teacher
from lit_sdpo.policies.teachers.following import EMATeacher as EMATeacher
from lit_sdpo.policies.teachers.following import FrozenTeacher as FrozenTeacher
from lit_sdpo.policies.teachers.following import GatedTeacher as GatedTeacher
from lit_sdpo.policies.teachers.following import RestartTeacher as RestartTeacher
from lit_sdpo.policies.teachers.following import TrustRegionTeacher as TrustRegionTeacher
from lit_sdpo.policies.teachers.model import ModelTeacher as ModelTeacher
from lit_sdpo.policies.teachers.routed import RoutedTeacher as RoutedTeacher
