"Run code of a model under limits, apart from its tests."
from rsr import face

__all__ = ['Limits', 'Sandbox', 'SandboxError', 'check_sandbox', 'open_session']

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rsr.sandbox.local_sessions import Limits, Sandbox, SandboxError
    from rsr.sandbox.pool import check_sandbox, open_session

_face = face('rsr.sandbox', {
    **dict.fromkeys(('Limits', 'Sandbox', 'SandboxError'), 'local_sessions'),
    **dict.fromkeys(('check_sandbox', 'open_session'), 'pool')})
__getattr__ = _face[0]
__dir__ = _face[1]
