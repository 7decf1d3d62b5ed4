"""Fills a log in its working folder, which is read-only for a while; prints "done"."""

from pathlib import Path

from tests.logs import Log

folder = Path.cwd()
log = Log(folder / "reg.log")
log.write(3)
folder.chmod(0o500)
log.write(300)
assert log.path.stat().st_size <= 4096
assert "Permission" in log.warnings[0], log.warnings
folder.chmod(0o700)
log.write(100)
assert log.older.exists()
print("done")
