"""The conformance tests, which every method and every protocol must pass. Test classes of plugins inherit them.

```python
from ddbench.testing import DistillerConformance
from ddbench_blur import BlurMethod

class TestBlurMethod(DistillerConformance):
    distiller = BlurMethod(blend=2)
```

Each test checks one requirement. The tests run the stages of `ddbench run` on scikit-learn's digits, with a small
teacher that is trained once per session. The tests need pytest.
"""

from ddbench.testing.methods import DistillerConformance
from ddbench.testing.protocols import EvaluatorConformance

__all__ = ["DistillerConformance", "EvaluatorConformance"]
