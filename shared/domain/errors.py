"""The one exception tree. HTTP statuses and retry decisions are looked up elsewhere, each in one table.

AtelierError
├── ConfigurationError            a setting, model card or folder is wrong; the process must not start
├── DecodeError                   a message cannot be read
│   └── NewerSchemaError          ... because a newer version wrote it
├── RequestError                  the client's fault (a subclass for each refusal, in the gateway)
├── BrokerError                   the broker could not be used
│   ├── BrokerUnavailableError    not connected, blocked, or the publish was refused: nothing was accepted
│   ├── PublishUnknownError       no answer in time: the message may or may not be in the queue
│   └── UnroutableError           no queue takes this message
├── StorageError                  the object store could not be used
│   └── AlreadyExistsError        a conditional write lost
├── ObjectNotFoundError           no such object
├── OutboundError                 somebody else's server could not be called
│   ├── UrlRefusedError           the URL is not one that the service calls
│   ├── NameUnresolvedError       its name has no address now
│   ├── AddressRefusedError       its name leads to an address that is not public
│   ├── ConnectionFailedError     no connection, or it broke, or its certificate is not right
│   ├── OutboundTimeoutError      it took too long
│   └── InvalidAnswerError        what came is not HTTP
└── TaskError                     a task's attempt failed
    └── ...                       see services.worker
"""

from __future__ import annotations

from typing import ClassVar


class AtelierError(Exception):
    """Root of the tree. ``code`` is stable and public, ``retryable`` says whether the same work may succeed later."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    @property
    def message(self) -> str:
        """Human-readable text; never holds secrets or a prompt's full text."""
        return str(self) or (self.__doc__ or self.code).strip()


class ConfigurationError(AtelierError):
    """A setting, model card or model folder is wrong."""

    code = "configuration_error"


class DecodeError(AtelierError):
    """A message cannot be read."""

    code = "undecodable"


class NewerSchemaError(DecodeError):
    """A message was written by a newer version of this software."""

    code = "newer_schema"
    retryable = True


class RequestError(AtelierError):
    """The client's request was refused."""

    code = "invalid_request"


class BrokerError(AtelierError):
    """The message broker could not be used."""

    code = "broker_error"
    retryable = True


class BrokerUnavailableError(BrokerError):
    """The broker is not connected, blocks publishers, or refused the message; nothing was accepted."""

    code = "broker_unavailable"


class PublishUnknownError(BrokerError):
    """The broker did not answer in time; the message may or may not have been queued."""

    code = "publish_unknown"


class UnroutableError(BrokerError):
    """No queue takes this message: the topology lacks the queue named in the routing key."""

    code = "unroutable"


class StorageError(AtelierError):
    """The object store could not be used."""

    code = "storage_error"
    retryable = True


class AlreadyExistsError(StorageError):
    """A conditional write found that the object exists."""

    code = "already_exists"
    retryable = False


class ObjectNotFoundError(AtelierError):
    """No such object in the store."""

    code = "object_not_found"


class OutboundError(AtelierError):
    """A server that somebody else runs could not be called."""

    code = "outbound_failed"
    retryable = True


class UrlRefusedError(OutboundError):
    """The URL is not one that the service calls."""

    code = "url_refused"
    retryable = False


class NameUnresolvedError(OutboundError):
    """The host's name has no address now."""

    code = "name_unresolved"


class AddressRefusedError(OutboundError):
    """The host's name leads to an address that is not public."""

    code = "address_refused"


class ConnectionFailedError(OutboundError):
    """The server cannot be connected to, broke the connection, or has no valid certificate of its name."""

    code = "connection_failed"


class OutboundTimeoutError(OutboundError):
    """The server took too long."""

    code = "timed_out"


class InvalidAnswerError(OutboundError):
    """What the server answered is not HTTP."""

    code = "invalid_answer"


class TaskError(AtelierError):
    """An attempt at a task failed."""

    code = "task_failed"


class BackendError(TaskError):
    """The model raised an error that is not known to pass."""

    code = "backend_error"
    retryable = True


class RunnerCrashedError(TaskError):
    """The child process that runs the model died."""

    code = "runner_crashed"
    retryable = True


class RunnerHungError(TaskError):
    """The child process made no progress within its budget and was ended."""

    code = "runner_hung"
    retryable = True


class AttemptsExhaustedError(TaskError):
    """Every allowed attempt was started and none ended."""

    code = "attempts_exhausted"
