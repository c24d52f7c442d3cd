"""The nouns of the loop. They know each other and nothing of policies, engines, servers or terminals."""
