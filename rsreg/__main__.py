"""`python -m rsreg` is `rs_cs`."""

from rsreg.cli import main

if __name__ == "__main__":
    main()
