"""The conformance kit: what every method and every protocol promises, as tests that a plugin's author inherits.

```python
from ddbench.testing import DistillerConformance
from ddbench_blur import BlurMethod

class TestBlurMethod(DistillerConformance):
    distiller = BlurMethod(blend=2)
```

Each test is one promise. It runs the stages of `ddbench run` on scikit-learn's digits, with a small teacher that is
trained once a session. Needs pytest.
"""

from ddbench.testing.methods import DistillerConformance
from ddbench.testing.protocols import EvaluatorConformance

__all__ = ["DistillerConformance", "EvaluatorConformance"]
