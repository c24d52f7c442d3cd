"""How hypothesis runs here: a busy machine is no bug."""

from hypothesis import HealthCheck, settings

settings.register_profile("glimprouter", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("glimprouter")
