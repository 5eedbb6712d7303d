"""The model a simulated fleet serves: its names, its adapters, its tokenizer and template, and how it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.sim.answers import word_tokens
from router.sim.cache import Namespace
from router.sim.text import ChatTemplate, Tokens


class Refusal(Exception):
    """A request the engine does not serve, in its own words."""

    def __init__(self, message: str, *, status: int = 400, kind: str = "BadRequestError", param: str | None = None):
        super().__init__(message)
        self.message, self.status, self.kind, self.param = message, status, kind, param


@dataclass(frozen=True, slots=True)
class Model:
    """What the replicas serve: the names of one model, its adapters, its tokenizer."""

    names: tuple[str, ...]
    tokens: Tokens
    template: ChatTemplate
    max_model_tokens: int
    root: str
    adapters: tuple[str, ...] = ()
    words: Sequence[int] = ()  # tokens answers are made of
    end_token: int = 0  # what the model says last when it ends by itself

    @classmethod
    def load(
        cls,
        tokens: Tokens,
        template: ChatTemplate,
        names: tuple[str, ...],
        adapters: tuple[str, ...],
        max_tokens: int,
        root: str,
    ) -> Model:
        vocabulary = tokens.tokenizer.get_vocab()
        end = vocabulary.get(template.end_token or "", 0)
        words = word_tokens(vocabulary)
        return cls(names, tokens, template, max_tokens, root, adapters, words, end)

    def namespace(self, name: str | None, salt: str | None) -> Namespace:
        """The cache a request by this name uses. Raises Refusal for an unknown model or an empty salt."""
        if salt == "":
            raise Refusal(
                "Parameter 'cache_salt' must be a non-empty string if provided. (parameter=cache_salt)",
                param="cache_salt",
            )
        if name in self.adapters:
            return Namespace(name, self.adapters.index(name) + 1, salt)
        if name is not None and name not in self.names:
            aliases = ", ".join((*self.names, *self.adapters))
            raise Refusal(
                f"The model `{name}` does not exist. Valid aliases: {aliases}.",
                status=404,
                kind="NotFoundError",
                param="model",
            )
        return Namespace(None, None, salt)
