"""What the chat takes and gives, field by field, in the form of OpenAI's API."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.serve.requests import Date, Given, Version
from pipeline.serve.shown import Shown, ShownFact

UNKNOWN = "I don't know."
"""The content of a refusal."""
MODEL = "living-memory"
"""What the API calls the system."""
MESSAGES = 1000
"""Messages of a conversation at most."""
UNHONOURED = {
    "audio": "answers are text",
    "functions": "the model calls nothing",
    "function_call": "the model calls nothing",
    "logit_bias": "answers are the most likely ones",
    "logprobs": "probabilities of tokens are not told; knowledge.facts tells those of facts",
    "prediction": "answers are not predicted",
    "stop": "answers end by themselves",
    "tools": "the model calls nothing",
    "tool_choice": "the model calls nothing",
    "top_logprobs": "probabilities of tokens are not told; knowledge.facts tells those of facts",
    "web_search_options": "the model answers from its memory",
}
"""Fields of OpenAI's API that can't be honoured unless they are empty, with why."""

UNCHANGING = {
    *(
        "temperature",
        "top_p",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "metadata",
        "store",
        "modalities",
    ),
    *("service_tier", "reasoning_effort", "verbosity", "parallel_tool_calls", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention"),
}
"""Fields of OpenAI's API that are accepted and change nothing."""


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["text"] = Field(description="Only text is read.", examples=["text"])
    text: str = Field(description="The text.", examples=["What is the capital of France?"])


class Message(BaseModel):
    """A message of the conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"] = Field(
        description="Who says it; the last message of `user` is the question, and no other is read.",
        examples=["user"],
    )
    content: str | list[TextPart] | None = Field(
        None, description="What is said.", examples=["What is the capital of France?"]
    )

    @property
    def text(self) -> str:
        """What is said, as one text."""
        if isinstance(self.content, list):
            return " ".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool | None = Field(
        None, description="Whether one more chunk at the end tells the tokens.", examples=[True]
    )


class KnowledgeAsked(Given):
    """What to answer from: an extension of OpenAI's API."""

    as_of: Date = ""
    k: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None,
        description="Facts to read at most; by default as many as the memory's settings say.",
        examples=[5],
    )


class ResponseFormat(BaseModel):
    """The form of the answer."""

    model_config = ConfigDict(extra="ignore")

    type: str = Field(description="Only `text` can be honoured.", examples=["text"])


Count = Annotated[int, Field(ge=1, le=1 << 31)]


class ChatAsked(BaseModel):
    """A question. Sampling parameters are accepted and change nothing: answers are the most likely ones."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(description="The model, as /v1/models lists it.", examples=[MODEL], max_length=200)
    messages: list[Message] = Field(
        description="The conversation; its last message of `user` is the question.",
        examples=[[{"role": "user", "content": "What is the capital of France?"}]],
        min_length=1,
        max_length=MESSAGES,
    )
    stream: bool | None = Field(
        None, description="Whether to send the answer piece by piece, as events.", examples=[False]
    )
    stream_options: StreamOptions | None = Field(None, description="How to stream.")
    max_tokens: Count | None = Field(
        None, description="Tokens of the answer at most; the adapter has a limit of its own.", examples=[24]
    )
    max_completion_tokens: Count | None = Field(
        None, description="The same, by its newer name; the smaller one counts.", examples=[24]
    )
    n: Literal[1] | None = Field(None, description="Answers; there is one.", examples=[1])
    user: str | None = Field(None, description="Changes nothing.", max_length=1000, examples=["me"])
    response_format: ResponseFormat | None = Field(None, description="The form of the answer: text.")
    knowledge: KnowledgeAsked | None = Field(
        None, description="An extension: as of when to answer, and from how many facts."
    )


class ReadFact(ShownFact):
    """A fact that an answer is read from, or that was looked at before a refusal."""

    weight: float = Field(
        description="Probability that the answer stands in this fact.", examples=[0.93], ge=0, le=1.001
    )
    via: ShownFact | None = Field(
        description="The fact that led to it, where the question asks for two hops.", examples=[None]
    )


class Milliseconds(Shown):
    """What took how long."""

    waiting: float = Field(description="Until the model took the question.", examples=[1.2])
    finding: float = Field(description="Finding the facts.", examples=[20.1])
    first_token: float | None = Field(
        None, description="From the arrival to the first token, or to the refusal.", examples=[60.0]
    )
    total: float | None = Field(None, description="From the arrival to the end.", examples=[140.5])


class Knowledge(Shown):
    """What an answer stands on."""

    refused: bool = Field(description="Whether the memory has no answer.", examples=[False])
    refusal: float = Field(description="Probability that no fact answers.", examples=[0.02], ge=0, le=1.001)
    facts: list[ReadFact] = Field(description="Heaviest first.")
    version: Version
    milliseconds: Milliseconds = Field(description="What took how long.")


class PromptDetails(Shown):
    """What the prompt is made of."""

    cached_tokens: int = Field(description="Always 0, for clients that read it.", examples=[0])
    fact_tokens: int = Field(description="Tokens of the facts that were read.", examples=[8])


class Usage(Shown):
    """Tokens."""

    prompt_tokens: int = Field(description="Of the prompt and of the facts that were read.", examples=[24])
    completion_tokens: int = Field(description="Of the answer; 0 for a refusal.", examples=[1])
    total_tokens: int = Field(description="Both.", examples=[25])
    prompt_tokens_details: PromptDetails = Field(description="What the prompt is made of.")


class Answered(Shown):
    """The message of the answer."""

    role: Literal["assistant"] = Field(description="Who says it.", examples=["assistant"])
    content: str = Field(description="The answer; a refusal says `I don't know.`", examples=["Paris"])
    refusal: None = Field(description="Always null; knowledge.refused tells.", examples=[None])


class Choice(Shown):
    """The one answer."""

    index: int = Field(description="0.", examples=[0])
    message: Answered = Field(description="The answer.")
    logprobs: None = Field(description="Always null.", examples=[None])
    finish_reason: Literal["stop", "length"] = Field(description="Why it ended.", examples=["stop"])


class Completion(Shown):
    """An answer."""

    id: str = Field(description="Of this answer.", examples=["chatcmpl-6f1b2c3d4e5f60718293a4b5"])
    object: Literal["chat.completion"] = Field(description="What this is.", examples=["chat.completion"])
    created: int = Field(description="Seconds since 1970.", examples=[1796083200])
    model: str = Field(description="The model.", examples=[MODEL])
    choices: list[Choice] = Field(description="One.")
    usage: Usage = Field(description="Tokens.")
    knowledge: Knowledge = Field(description="An extension: what the answer stands on.")


class Model(Shown):
    """A model."""

    id: str = Field(description="Its name.", examples=[MODEL])
    object: Literal["model"] = Field(description="What this is.", examples=["model"])
    created: int = Field(
        description="Seconds since 1970: when the server was started.", examples=[1796083200]
    )
    owned_by: str = Field(description="The language model below the adapter.", examples=["smollm2-135m-q4_1"])


class Models(Shown):
    """The models that there are."""

    object: Literal["list"] = Field(description="What this is.", examples=["list"])
    data: list[Model] = Field(description="One.")


def more_of(asked: ChatAsked) -> dict[str, Any]:
    """Return the fields of a request that are not described above."""
    return asked.model_extra or {}
