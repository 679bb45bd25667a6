"""ddbench: one harness for dataset distillation methods, protocols and the tables that compare them."""

__version__ = "0.1.0"
