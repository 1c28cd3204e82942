"""smdaemon publishes TensorFlow SavedModels beside a training job, without TensorFlow.

Importing this package costs milliseconds: nothing is loaded until a sub-package is used.
"""

__version__ = "0.1.0"
