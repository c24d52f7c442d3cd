"""`python -m lab`. The work is in pipeline.py, which spawned processes can import."""

from lab.pipeline import main

if __name__ == "__main__":
    main()
