"""A plugin of pytest: scikit-learn's own tests see our class as its LogisticRegression."""

from sklearn import linear_model
from sklearn.linear_model import _logistic

from fastxent.integrations.sklearn import LogisticRegression

_logistic.LogisticRegression = linear_model.LogisticRegression = LogisticRegression
