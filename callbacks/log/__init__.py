"""The log of a run: event files as TensorBoard reads them, and a history in memory."""
