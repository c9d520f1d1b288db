from typing import Self

__version__: str

class LossSpike:
    weight: float
    name: str
    after: tuple[str, ...]
    before: tuple[str, ...]
    logs: tuple[str, ...]

    def __new__(cls, factor: float = 3.0) -> Self: ...
    def __lumbre_callback__(self) -> object: ...
