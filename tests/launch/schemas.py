"""What the files for clouds may hold, by the references of Kubernetes (batch/v1, core/v1) and
SkyPilot (task YAML): the part that they use, and nothing else.
"""

import jsonschema


def faults(document, schema):
    """What a document holds against its schema; nothing if it fits."""
    return [e.message for e in jsonschema.Draft202012Validator(schema).iter_errors(document)]


def thing(required=(), **properties):
    """An object with these properties only."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
    }


TEXT = {"type": "string", "minLength": 1}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
COUNT = {"type": "integer", "minimum": 1}
METADATA = thing(["name"], name=NAME)
QUANTITY = {"anyOf": [COUNT, {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[KMGT]i?)?$"}]}

CONTAINER = thing(
    ["name", "image"],
    name=NAME,
    image=TEXT,
    command={"type": "array", "items": TEXT},
    args={"type": "array", "items": TEXT},
    env={"type": "array", "items": thing(["name", "value"], name=TEXT, value={"type": "string"})},
    resources=thing(limits={"type": "object", "additionalProperties": QUANTITY}),
    volumeMounts={
        "type": "array",
        "items": thing(["name", "mountPath"], name=NAME, mountPath=TEXT),
    },
)
VOLUME = thing(
    ["name"],
    name=NAME,
    persistentVolumeClaim=thing(["claimName"], claimName=NAME),
    emptyDir=thing(medium={"enum": ["Memory"]}, sizeLimit=QUANTITY),
)
EXIT_CODES = thing(
    ["operator", "values"],
    containerName=NAME,
    operator={"enum": ["In", "NotIn"]},
    values={"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 255}},
)
RULE = thing(
    ["action"],
    action={"enum": ["Ignore", "FailJob", "FailIndex", "Count"]},
    onExitCodes=EXIT_CODES,
    onPodConditions={
        "type": "array",
        "items": thing(["type"], type=TEXT, status={"enum": ["True", "False", "Unknown"]}),
    },
)
POD = thing(
    ["containers", "restartPolicy"],
    # podFailurePolicy allows no other.
    restartPolicy={"const": "Never"},
    subdomain=NAME,
    terminationGracePeriodSeconds=COUNT,
    containers={"type": "array", "minItems": 1, "items": CONTAINER},
    volumes={"type": "array", "items": VOLUME},
)
JOB = thing(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "batch/v1"},
    kind={"const": "Job"},
    metadata=METADATA,
    spec=thing(
        ["template"],
        completions=COUNT,
        parallelism=COUNT,
        completionMode={"enum": ["Indexed", "NonIndexed"]},
        backoffLimit={"type": "integer", "minimum": 0},
        podFailurePolicy=thing(["rules"], rules={"type": "array", "maxItems": 20, "items": RULE}),
        template=thing(["spec"], spec=POD),
    ),
)
SERVICE = thing(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "v1"},
    kind={"const": "Service"},
    metadata=METADATA,
    spec=thing(
        ["selector"],
        clusterIP={"const": "None"},
        selector={"type": "object", "additionalProperties": TEXT},
    ),
)
KUBERNETES = {"Job": JOB, "Service": SERVICE}

AMOUNT = {"anyOf": [COUNT, {"type": "string", "pattern": r"^\d+\+?$"}]}
SKYPILOT = thing(
    ["run"],
    name=TEXT,
    workdir=TEXT,
    num_nodes=COUNT,
    resources=thing(
        accelerators={"type": "object", "maxProperties": 1, "additionalProperties": COUNT},
        cpus=AMOUNT,
        memory=AMOUNT,
        disk_size=COUNT,
        use_spot={"type": "boolean"},
        job_recovery=thing(
            strategy=TEXT,
            max_restarts_on_errors={"type": "integer", "minimum": 0},
            recover_on_exit_codes={
                "type": "array",
                "items": {"type": "integer", "minimum": 0, "maximum": 255},
            },
        ),
    ),
    envs={"type": "object", "additionalProperties": {"type": "string"}},
    file_mounts={
        "type": "object",
        "additionalProperties": thing(
            ["source", "mode"],
            source=TEXT,
            mode={"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]},
        ),
    },
    setup=TEXT,
    run=TEXT,
)
