"""What the client says of documents, and of fields, beside the OpenAPI document."""

from __future__ import annotations

from typing import Any, NotRequired, get_origin, get_type_hints, is_typeddict

import pytest

from streamer.client import documents, fields
from streamer.model.names import camel
from streamer.web.reference.document import Facts, openapi

DOCUMENT = openapi(Facts(base=""))
SCHEMAS: dict[str, dict[str, Any]] = DOCUMENT["components"]["schemas"]

OF = {
    documents.CaseDocument: "CaseResult",
    documents.JobDocument: "Job",
    documents.FileDocument: "JobFile",
    documents.GrantDocument: "Grant",
    documents.GrantLinksDocument: "GrantLinks",
    documents.ReaderDocument: "Reader",
    documents.ProjectDocument: "Project",
    documents.ProjectFileDocument: "ProjectFile",
    documents.SessionDocument: "Session",
    documents.SessionLinksDocument: "SessionLinks",
    documents.SessionFileDocument: "SessionEntry",
    documents.QueueDocument: "Queue",
    documents.OwnQueueDocument: "OwnQueue",
    documents.WaitingJobDocument: "WaitingJob",
    documents.RuntimeDocument: "Runtime",
    documents.EnvironmentDocument: "Environment",
    documents.SandboxDocument: "Sandbox",
    documents.PolicyDocument: "Policy",
    documents.JobLinksDocument: "JobLinks",
    documents.WebhookDocument: "WebhookState",
    documents.ArtifactFailureDocument: "ArtifactFailure",
    documents.TerminalDocument: "TerminalSize",
    documents.JobPage: "JobList",
    documents.FileList: "Files",
    documents.ReaderList: "Readers",
    documents.RuntimeList: "Runtimes",
    documents.SandboxList: "Sandboxes",
    documents.SessionDocuments: "SessionList",
}
# In a list the cases have no output; the default is told of each sandbox, too.
KNOWN_TO_DIFFER = {
    "CaseResult": {"stdout", "stderr"},
    "Sandboxes": {"default"},
}


@pytest.mark.parametrize(("shape", "name"), OF.items(), ids=OF.values())
def test_a_document_has_the_fields_of_its_schema(shape: Any, name: str) -> None:
    schema, but = SCHEMAS[name], KNOWN_TO_DIFFER.get(name, set())
    assert shape.__annotations__.keys() | but == schema["properties"].keys() | but
    assert required(shape) | but == {*schema["required"]} | but


def required(shape: Any) -> set[str]:
    """Python's own `__required_keys__` is wrong where annotations are text."""
    hints = get_type_hints(shape, include_extras=True)
    return {name for name, hint in hints.items() if get_origin(hint) is not NotRequired}


def test_every_document_is_compared() -> None:
    shapes = {one for one in vars(documents).values() if is_typeddict(one)}
    few = {documents.JobId, documents.SessionFileList}  # one field each of several
    assert shapes - OF.keys() - few == {documents.ResultDocument}
    ended = {*SCHEMAS["Completed"]["properties"], *SCHEMAS["Failed"]["properties"]}
    assert documents.ResultDocument.__annotations__.keys() == ended


@pytest.mark.parametrize(
    ("shape", "name"),
    [(fields.JobFields, "JobRequest"), (fields.SessionFields, "SessionRequest")],
)
def test_the_fields_of_a_request_are_those_of_its_schema(shape: Any, name: str) -> None:
    given = shape.__annotations__.keys()
    assert {camel(one) for one in given} == SCHEMAS[name]["properties"].keys()
    # Each by both names.
    assert {one for one in given if one != one.lower()} == SCHEMAS[name]["properties"].keys() & {
        camel(one) for one in given if "_" in one
    }
