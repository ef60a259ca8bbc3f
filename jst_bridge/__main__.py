"""`python -m jst_bridge` is `jst-bridge`."""

from jst_bridge.cli import main

if __name__ == "__main__":
    main()
