"""The JSON in streams of responses, for documents and tests. Events are written in stream.py."""

from typing import Literal

from gateway.responses.answers import (
    CustomToolCall,
    FunctionCall,
    IncompleteDetails,
    OutputMessage,
    OutputText,
    ReasoningItem,
    ReasoningText,
    ResponseFields,
    ResponsesPart,
    ResponseUsage,
)

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class ResponsesEvent(ResponsesPart):
    """sequence_number: counts the events from 0."""

    sequence_number: int


class FailedDetails(ResponsesPart):
    """Why a response failed after its start. type: the code of the error."""

    code: str
    message: str
    param: str | None
    type: str


class GrowingMessage(OutputMessage):
    """A text of the model that may still grow."""

    status: Literal["in_progress", "completed", "incomplete"]  # type: ignore[assignment] # one more than an answer has


class GrowingReasoning(ReasoningItem):
    """Reasoning that may still grow."""

    status: Literal["in_progress", "completed", "incomplete"]  # type: ignore[assignment] # as above


class GrowingFunctionCall(FunctionCall):
    """A call of a function that may still grow."""

    status: Literal["in_progress", "completed", "incomplete"]  # type: ignore[assignment] # as above


class GrowingCustomCall(CustomToolCall):
    """A call of a custom tool that may still grow."""

    status: Literal["in_progress", "completed", "incomplete"]  # type: ignore[assignment] # as above


Item = GrowingMessage | GrowingReasoning | GrowingFunctionCall | GrowingCustomCall


class GrowingResponse(ResponseFields):
    """A response that may still grow, has ended or has failed."""

    completed_at: int | None
    status: Status
    error: FailedDetails | None
    incomplete_details: IncompleteDetails | None
    output: list[Item]
    usage: ResponseUsage | None


class LifecycleEvent(ResponsesEvent):
    """The response as it is now: the first two events, the last one, and one in a silent stream."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: GrowingResponse


class ItemEvent(ResponsesEvent):
    """An item begins, or is complete."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: Item


class PlacedEvent(ResponsesEvent):
    """Of the item that grows."""

    item_id: str
    output_index: int


class PartEvent(PlacedEvent):
    """The part of an item begins, or is complete."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int
    part: OutputText | ReasoningText


class LikelyPiece(ResponsesPart):
    """A token and how likely it was, without its bytes."""

    token: str
    logprob: float


class ChosenPiece(LikelyPiece):
    """With the likeliest ones in its place."""

    top_logprobs: list[LikelyPiece]


class TextDelta(PlacedEvent):
    """More of a text."""

    type: Literal["response.output_text.delta"]
    content_index: int
    delta: str
    logprobs: list[ChosenPiece]


class TextDone(PlacedEvent):
    """The whole text."""

    type: Literal["response.output_text.done"]
    content_index: int
    text: str
    logprobs: list[ChosenPiece]


class ReasoningDelta(PlacedEvent):
    """More of the reasoning."""

    type: Literal["response.reasoning_text.delta"]
    content_index: int
    delta: str


class ReasoningDone(PlacedEvent):
    """The whole reasoning."""

    type: Literal["response.reasoning_text.done"]
    content_index: int
    text: str


class CallDelta(PlacedEvent):
    """More of a call's arguments, or of a custom tool's input."""

    type: Literal["response.function_call_arguments.delta", "response.custom_tool_call_input.delta"]
    delta: str


class ArgumentsDone(PlacedEvent):
    """All arguments of a call."""

    type: Literal["response.function_call_arguments.done"]
    arguments: str


class InputDone(PlacedEvent):
    """The whole input of a custom tool."""

    type: Literal["response.custom_tool_call_input.done"]
    input: str


EVENTS: tuple[type[ResponsesEvent], ...] = (
    LifecycleEvent,
    ItemEvent,
    PartEvent,
    TextDelta,
    TextDone,
    ReasoningDelta,
    ReasoningDone,
    CallDelta,
    ArgumentsDone,
    InputDone,
)
