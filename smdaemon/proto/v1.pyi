# Written by protos/generate.py; do not edit.
# mypy: disable-error-code="type-arg"
# ruff: noqa
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from smdaemon.proto.tensorflow import StructuredValue
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union
import datetime

class Error(_message.Message):
    __slots__ = ("code", "message", "remedy", "retryable")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    remedy: str
    retryable: bool
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ..., retryable: _Optional[bool] = ...) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("model", "source", "format", "version", "tags", "include", "exclude", "rename", "separator", "shards", "devices", "template", "name_map", "missing", "unused", "signatures", "graph", "meta_graph", "prune", "main_op", "strip_default_attrs", "debug_info", "debug_info_map", "as_text", "assets_extra", "warmup", "io_device", "modes", "function", "serving_tensorflow", "metrics")
    class RenameEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class NameMapEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SignaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Signature
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Signature, _Mapping]] = ...) -> None: ...
    class AssetsExtraEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class ModesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ModeGraph
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ModeGraph, _Mapping]] = ...) -> None: ...
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    RENAME_FIELD_NUMBER: _ClassVar[int]
    SEPARATOR_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    NAME_MAP_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    UNUSED_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    META_GRAPH_FIELD_NUMBER: _ClassVar[int]
    PRUNE_FIELD_NUMBER: _ClassVar[int]
    MAIN_OP_FIELD_NUMBER: _ClassVar[int]
    STRIP_DEFAULT_ATTRS_FIELD_NUMBER: _ClassVar[int]
    DEBUG_INFO_FIELD_NUMBER: _ClassVar[int]
    DEBUG_INFO_MAP_FIELD_NUMBER: _ClassVar[int]
    AS_TEXT_FIELD_NUMBER: _ClassVar[int]
    ASSETS_EXTRA_FIELD_NUMBER: _ClassVar[int]
    WARMUP_FIELD_NUMBER: _ClassVar[int]
    IO_DEVICE_FIELD_NUMBER: _ClassVar[int]
    MODES_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    SERVING_TENSORFLOW_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    model: str
    source: str
    format: str
    version: int
    tags: _containers.RepeatedScalarFieldContainer[str]
    include: _containers.RepeatedScalarFieldContainer[str]
    exclude: _containers.RepeatedScalarFieldContainer[str]
    rename: _containers.ScalarMap[str, str]
    separator: str
    shards: int
    devices: str
    template: str
    name_map: _containers.ScalarMap[str, str]
    missing: str
    unused: str
    signatures: _containers.MessageMap[str, Signature]
    graph: str
    meta_graph: str
    prune: bool
    main_op: str
    strip_default_attrs: bool
    debug_info: str
    debug_info_map: str
    as_text: bool
    assets_extra: _containers.ScalarMap[str, str]
    warmup: str
    io_device: str
    modes: _containers.MessageMap[str, ModeGraph]
    function: str
    serving_tensorflow: str
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, model: _Optional[str] = ..., source: _Optional[str] = ..., format: _Optional[str] = ..., version: _Optional[int] = ..., tags: _Optional[_Iterable[str]] = ..., include: _Optional[_Iterable[str]] = ..., exclude: _Optional[_Iterable[str]] = ..., rename: _Optional[_Mapping[str, str]] = ..., separator: _Optional[str] = ..., shards: _Optional[int] = ..., devices: _Optional[str] = ..., template: _Optional[str] = ..., name_map: _Optional[_Mapping[str, str]] = ..., missing: _Optional[str] = ..., unused: _Optional[str] = ..., signatures: _Optional[_Mapping[str, Signature]] = ..., graph: _Optional[str] = ..., meta_graph: _Optional[str] = ..., prune: _Optional[bool] = ..., main_op: _Optional[str] = ..., strip_default_attrs: _Optional[bool] = ..., debug_info: _Optional[str] = ..., debug_info_map: _Optional[str] = ..., as_text: _Optional[bool] = ..., assets_extra: _Optional[_Mapping[str, str]] = ..., warmup: _Optional[str] = ..., io_device: _Optional[str] = ..., modes: _Optional[_Mapping[str, ModeGraph]] = ..., function: _Optional[str] = ..., serving_tensorflow: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Signature(_message.Message):
    __slots__ = ("inputs", "outputs", "method")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class OutputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.ScalarMap[str, str]
    outputs: _containers.ScalarMap[str, str]
    method: str
    def __init__(self, inputs: _Optional[_Mapping[str, str]] = ..., outputs: _Optional[_Mapping[str, str]] = ..., method: _Optional[str] = ...) -> None: ...

class ModeGraph(_message.Message):
    __slots__ = ("template", "tags")
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    template: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, template: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...

class ExportResult(_message.Message):
    __slots__ = ("job", "model", "source", "state", "version", "export_dir", "tensors", "bytes", "seconds", "finished_at", "error", "mode_dirs")
    class ModeDirsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPORT_DIR_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MODE_DIRS_FIELD_NUMBER: _ClassVar[int]
    job: int
    model: str
    source: str
    state: str
    version: int
    export_dir: str
    tensors: int
    bytes: int
    seconds: float
    finished_at: _timestamp_pb2.Timestamp
    error: Error
    mode_dirs: _containers.ScalarMap[str, str]
    def __init__(self, job: _Optional[int] = ..., model: _Optional[str] = ..., source: _Optional[str] = ..., state: _Optional[str] = ..., version: _Optional[int] = ..., export_dir: _Optional[str] = ..., tensors: _Optional[int] = ..., bytes: _Optional[int] = ..., seconds: _Optional[float] = ..., finished_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., mode_dirs: _Optional[_Mapping[str, str]] = ...) -> None: ...

class FunctionBundle(_message.Message):
    __slots__ = ("format", "functions", "parameters", "serving_tensorflow", "producer")
    class FunctionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ExportedFunction
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ExportedFunction, _Mapping]] = ...) -> None: ...
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SERVING_TENSORFLOW_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    format: int
    functions: _containers.MessageMap[str, ExportedFunction]
    parameters: _containers.RepeatedCompositeFieldContainer[FunctionTensor]
    serving_tensorflow: str
    producer: str
    def __init__(self, format: _Optional[int] = ..., functions: _Optional[_Mapping[str, ExportedFunction]] = ..., parameters: _Optional[_Iterable[_Union[FunctionTensor, _Mapping]]] = ..., serving_tensorflow: _Optional[str] = ..., producer: _Optional[str] = ...) -> None: ...

class FunctionTensor(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class FunctionOperand(_message.Message):
    __slots__ = ("input", "parameter")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    input: int
    parameter: str
    def __init__(self, input: _Optional[int] = ..., parameter: _Optional[str] = ...) -> None: ...

class FunctionFrame(_message.Message):
    __slots__ = ("file", "line", "column", "function")
    FILE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    file: str
    line: int
    column: int
    function: str
    def __init__(self, file: _Optional[str] = ..., line: _Optional[int] = ..., column: _Optional[int] = ..., function: _Optional[str] = ...) -> None: ...

class FunctionTrace(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[FunctionFrame]
    def __init__(self, frames: _Optional[_Iterable[_Union[FunctionFrame, _Mapping]]] = ...) -> None: ...

class ExportedFunction(_message.Message):
    __slots__ = ("module", "calling_convention_version", "platforms", "disabled_checks", "inputs", "outputs", "operands", "arguments", "returned", "attribute", "traces")
    class TracesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FunctionTrace
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FunctionTrace, _Mapping]] = ...) -> None: ...
    MODULE_FIELD_NUMBER: _ClassVar[int]
    CALLING_CONVENTION_VERSION_FIELD_NUMBER: _ClassVar[int]
    PLATFORMS_FIELD_NUMBER: _ClassVar[int]
    DISABLED_CHECKS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    OPERANDS_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    TRACES_FIELD_NUMBER: _ClassVar[int]
    module: bytes
    calling_convention_version: int
    platforms: _containers.RepeatedScalarFieldContainer[str]
    disabled_checks: _containers.RepeatedScalarFieldContainer[str]
    inputs: _containers.RepeatedCompositeFieldContainer[FunctionTensor]
    outputs: _containers.RepeatedCompositeFieldContainer[FunctionTensor]
    operands: _containers.RepeatedCompositeFieldContainer[FunctionOperand]
    arguments: StructuredValue
    returned: StructuredValue
    attribute: str
    traces: _containers.MessageMap[str, FunctionTrace]
    def __init__(self, module: _Optional[bytes] = ..., calling_convention_version: _Optional[int] = ..., platforms: _Optional[_Iterable[str]] = ..., disabled_checks: _Optional[_Iterable[str]] = ..., inputs: _Optional[_Iterable[_Union[FunctionTensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[FunctionTensor, _Mapping]]] = ..., operands: _Optional[_Iterable[_Union[FunctionOperand, _Mapping]]] = ..., arguments: _Optional[_Union[StructuredValue, _Mapping]] = ..., returned: _Optional[_Union[StructuredValue, _Mapping]] = ..., attribute: _Optional[str] = ..., traces: _Optional[_Mapping[str, FunctionTrace]] = ...) -> None: ...

class Transition(_message.Message):
    __slots__ = ("seq", "state", "at", "reason")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    seq: int
    state: str
    at: _timestamp_pb2.Timestamp
    reason: str
    def __init__(self, seq: _Optional[int] = ..., state: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("at", "level", "event", "fields")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AT_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    level: str
    event: str
    fields: _containers.ScalarMap[str, str]
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., level: _Optional[str] = ..., event: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "model", "state", "reason", "origin", "source", "format", "version", "export_dir", "tensors", "bytes_done", "bytes_total", "bytes_per_second", "attempts", "retry_at", "created_at", "updated_at", "error", "history", "restores", "validator_output", "log")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPORT_DIR_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    RETRY_AT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    RESTORES_FIELD_NUMBER: _ClassVar[int]
    VALIDATOR_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    id: int
    model: str
    state: str
    reason: str
    origin: str
    source: str
    format: str
    version: int
    export_dir: str
    tensors: int
    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    attempts: int
    retry_at: _timestamp_pb2.Timestamp
    created_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    error: Error
    history: _containers.RepeatedCompositeFieldContainer[Transition]
    restores: int
    validator_output: str
    log: _containers.RepeatedCompositeFieldContainer[LogLine]
    def __init__(self, id: _Optional[int] = ..., model: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., origin: _Optional[str] = ..., source: _Optional[str] = ..., format: _Optional[str] = ..., version: _Optional[int] = ..., export_dir: _Optional[str] = ..., tensors: _Optional[int] = ..., bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., bytes_per_second: _Optional[float] = ..., attempts: _Optional[int] = ..., retry_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., history: _Optional[_Iterable[_Union[Transition, _Mapping]]] = ..., restores: _Optional[int] = ..., validator_output: _Optional[str] = ..., log: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ...) -> None: ...

class JobList(_message.Message):
    __slots__ = ("jobs", "next_before")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_BEFORE_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    next_before: int
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., next_before: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("seq", "job", "status", "sample")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    seq: int
    job: Job
    status: Status
    sample: Sample
    def __init__(self, seq: _Optional[int] = ..., job: _Optional[_Union[Job, _Mapping]] = ..., status: _Optional[_Union[Status, _Mapping]] = ..., sample: _Optional[_Union[Sample, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "watch", "publish", "watch_method", "health", "error", "newest_version", "newest_at", "jobs", "retention_error", "disk_free_bytes", "disk_bytes", "newest_bytes", "oldest_open_at")
    class JobsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    WATCH_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_FIELD_NUMBER: _ClassVar[int]
    WATCH_METHOD_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    NEWEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    NEWEST_AT_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    RETENTION_ERROR_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    NEWEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    OLDEST_OPEN_AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    watch: str
    publish: str
    watch_method: str
    health: str
    error: Error
    newest_version: int
    newest_at: _timestamp_pb2.Timestamp
    jobs: _containers.ScalarMap[str, int]
    retention_error: Error
    disk_free_bytes: int
    disk_bytes: int
    newest_bytes: int
    oldest_open_at: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., watch: _Optional[str] = ..., publish: _Optional[str] = ..., watch_method: _Optional[str] = ..., health: _Optional[str] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., newest_version: _Optional[int] = ..., newest_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., jobs: _Optional[_Mapping[str, int]] = ..., retention_error: _Optional[_Union[Error, _Mapping]] = ..., disk_free_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., newest_bytes: _Optional[int] = ..., oldest_open_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ModelList(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("version", "pid", "phase", "started_at", "config_file", "config_loaded_at", "config_error", "models", "jobs", "host_memory_bytes", "host_memory_used_bytes", "workers", "workers_busy", "handoff", "may_act", "notifiers", "serving")
    class JobsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FILE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_LOADED_AT_FIELD_NUMBER: _ClassVar[int]
    CONFIG_ERROR_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    HOST_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOST_MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_BUSY_FIELD_NUMBER: _ClassVar[int]
    HANDOFF_FIELD_NUMBER: _ClassVar[int]
    MAY_ACT_FIELD_NUMBER: _ClassVar[int]
    NOTIFIERS_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    version: str
    pid: int
    phase: str
    started_at: _timestamp_pb2.Timestamp
    config_file: str
    config_loaded_at: _timestamp_pb2.Timestamp
    config_error: Error
    models: _containers.RepeatedCompositeFieldContainer[Model]
    jobs: _containers.ScalarMap[str, int]
    host_memory_bytes: int
    host_memory_used_bytes: int
    workers: int
    workers_busy: int
    handoff: Handoff
    may_act: bool
    notifiers: _containers.RepeatedCompositeFieldContainer[Notifier]
    serving: ServingConfig
    def __init__(self, version: _Optional[str] = ..., pid: _Optional[int] = ..., phase: _Optional[str] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., config_file: _Optional[str] = ..., config_loaded_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., config_error: _Optional[_Union[Error, _Mapping]] = ..., models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., jobs: _Optional[_Mapping[str, int]] = ..., host_memory_bytes: _Optional[int] = ..., host_memory_used_bytes: _Optional[int] = ..., workers: _Optional[int] = ..., workers_busy: _Optional[int] = ..., handoff: _Optional[_Union[Handoff, _Mapping]] = ..., may_act: _Optional[bool] = ..., notifiers: _Optional[_Iterable[_Union[Notifier, _Mapping]]] = ..., serving: _Optional[_Union[ServingConfig, _Mapping]] = ...) -> None: ...

class Notifier(_message.Message):
    __slots__ = ("name", "kind", "delivered", "failed", "given_up", "behind_since", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    GIVEN_UP_FIELD_NUMBER: _ClassVar[int]
    BEHIND_SINCE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    delivered: int
    failed: int
    given_up: int
    behind_since: _timestamp_pb2.Timestamp
    error: Error
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., delivered: _Optional[int] = ..., failed: _Optional[int] = ..., given_up: _Optional[int] = ..., behind_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class ServingConfig(_message.Message):
    __slots__ = ("config_file", "current_at", "error")
    CONFIG_FILE_FIELD_NUMBER: _ClassVar[int]
    CURRENT_AT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    config_file: str
    current_at: _timestamp_pb2.Timestamp
    error: Error
    def __init__(self, config_file: _Optional[str] = ..., current_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("at", "host_memory_used_bytes", "handoff_memory_used_bytes", "workers_busy", "open_jobs", "bytes_per_second", "stall_seconds", "disk_free_bytes")
    AT_FIELD_NUMBER: _ClassVar[int]
    HOST_MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    HANDOFF_MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKERS_BUSY_FIELD_NUMBER: _ClassVar[int]
    OPEN_JOBS_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    STALL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    host_memory_used_bytes: int
    handoff_memory_used_bytes: int
    workers_busy: int
    open_jobs: int
    bytes_per_second: float
    stall_seconds: float
    disk_free_bytes: int
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., host_memory_used_bytes: _Optional[int] = ..., handoff_memory_used_bytes: _Optional[int] = ..., workers_busy: _Optional[int] = ..., open_jobs: _Optional[int] = ..., bytes_per_second: _Optional[float] = ..., stall_seconds: _Optional[float] = ..., disk_free_bytes: _Optional[int] = ...) -> None: ...

class History(_message.Message):
    __slots__ = ("interval_seconds", "samples")
    INTERVAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    interval_seconds: float
    samples: _containers.RepeatedCompositeFieldContainer[Sample]
    def __init__(self, interval_seconds: _Optional[float] = ..., samples: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ...) -> None: ...

class Handoff(_message.Message):
    __slots__ = ("socket", "trainers", "segments", "memory_bytes", "memory_used_bytes", "exports", "saves", "skipped", "last_stall_seconds", "refused")
    SOCKET_FIELD_NUMBER: _ClassVar[int]
    TRAINERS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXPORTS_FIELD_NUMBER: _ClassVar[int]
    SAVES_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    LAST_STALL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    socket: str
    trainers: int
    segments: int
    memory_bytes: int
    memory_used_bytes: int
    exports: int
    saves: int
    skipped: int
    last_stall_seconds: float
    refused: int
    def __init__(self, socket: _Optional[str] = ..., trainers: _Optional[int] = ..., segments: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., memory_used_bytes: _Optional[int] = ..., exports: _Optional[int] = ..., saves: _Optional[int] = ..., skipped: _Optional[int] = ..., last_stall_seconds: _Optional[float] = ..., refused: _Optional[int] = ...) -> None: ...

class Version(_message.Message):
    __slots__ = ("version", "export_dir", "state", "kept_by", "pinned", "metrics", "place", "published_at", "restores", "withdrawn_at")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPORT_DIR_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    KEPT_BY_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_AT_FIELD_NUMBER: _ClassVar[int]
    RESTORES_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_AT_FIELD_NUMBER: _ClassVar[int]
    version: int
    export_dir: str
    state: str
    kept_by: _containers.RepeatedScalarFieldContainer[str]
    pinned: bool
    metrics: _containers.ScalarMap[str, float]
    place: int
    published_at: _timestamp_pb2.Timestamp
    restores: int
    withdrawn_at: _timestamp_pb2.Timestamp
    def __init__(self, version: _Optional[int] = ..., export_dir: _Optional[str] = ..., state: _Optional[str] = ..., kept_by: _Optional[_Iterable[str]] = ..., pinned: _Optional[bool] = ..., metrics: _Optional[_Mapping[str, float]] = ..., place: _Optional[int] = ..., published_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., restores: _Optional[int] = ..., withdrawn_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class VersionList(_message.Message):
    __slots__ = ("model", "versions")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    versions: _containers.RepeatedCompositeFieldContainer[Version]
    def __init__(self, model: _Optional[str] = ..., versions: _Optional[_Iterable[_Union[Version, _Mapping]]] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class Pruned(_message.Message):
    __slots__ = ("model", "dry_run", "removed", "kept")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    model: str
    dry_run: bool
    removed: _containers.RepeatedScalarFieldContainer[int]
    kept: _containers.RepeatedCompositeFieldContainer[Version]
    def __init__(self, model: _Optional[str] = ..., dry_run: _Optional[bool] = ..., removed: _Optional[_Iterable[int]] = ..., kept: _Optional[_Iterable[_Union[Version, _Mapping]]] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("to",)
    TO_FIELD_NUMBER: _ClassVar[int]
    to: int
    def __init__(self, to: _Optional[int] = ...) -> None: ...
