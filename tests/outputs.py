"""Containers that models of other libraries answer with."""

import dataclasses
from collections import OrderedDict
from typing import Any


class ModelOutput(OrderedDict[str, Any]):
    """The output of transformers, in what it lets one do: its items are its fields, without None.

    Source: transformers, `utils/generic.py`.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None:
                self[field.name] = value

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("an output takes no update")

    update = pop = setdefault = __delitem__ = _refuse

    def __getitem__(self, key: Any) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else tuple(self.values())[key]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.keys() and value is not None:
            super().__setitem__(name, value)
        super().__setattr__(name, value)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self) -> Any:
        kind, _, *rest = super().__reduce__()
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return kind, tuple(getattr(self, field.name) for field in fields), *rest


@dataclasses.dataclass
class Classified(ModelOutput):
    """What a classifier of transformers answers."""

    loss: Any = None
    logits: Any = None
    hidden_states: Any = None


class Attributes(dict[str, Any]):
    """A dict whose items are its attributes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.__dict__ = self
