"""`python -m glimprouter` is `glimprouter`."""

from glimprouter.cli.main import main

if __name__ == "__main__":
    main()
