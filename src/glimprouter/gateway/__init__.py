"""An OpenAI-compatible endpoint over the library's `Router`. Read `app.py` first; `glimprouter serve` starts it."""
