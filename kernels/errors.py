"""What a kernel can refuse."""


class NonFiniteWeights(ValueError):
    """A weight is NaN or infinite.

    row, col    position of the first such weight in row-major order
    value       the weight itself, as a Python float
    """

    def __init__(self, row: int, col: int, value: float) -> None:
        super().__init__(row, col, value)
        self.row = row
        self.col = col
        self.value = value

    def __str__(self) -> str:
        return f"weight [{self.row}, {self.col}] is {self.value}"
