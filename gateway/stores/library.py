"""The Lua text of scripts, in two forms that retain the functions of a script from one call to the next.

Redis runs the whole text of a script at each EVALSHA. To create the functions in it and to collect them afterwards
costs more than most calls do. Each form creates them at the first call only:

- A *library* of functions, https://redis.io/docs/latest/develop/programmability/functions-intro/. Redis 7 and Valkey
  load it once and replicate it. Its name has a hash of its text, so that two versions of the gateway can use one Redis.
- A *script*, for Redis 6 and for users without permission to load functions. Redis retains a script as one Lua
  function. In Redis 6 that function replaces its own environment by a table that has what it created. Redis 7 has no
  `setfenv`; there the script creates its functions at each call.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

_CREATE = """\
local function create()
{parts}
local scripts = {{}}
{scripts}
return function(name, keys, arguments)
  KEYS, ARGV = keys, arguments
  for i = 1, #starts do
    starts[i]()
  end
  return scripts[name]()
end
end
"""

_SCRIPT = """\
function scripts.{name}()
{text}
end
"""

_CALL = """\
local setfenv = rawget(_G, 'setfenv')
local run = setfenv and rawget(getfenv(1), 'run')
if not run then
  run = create()
  if setfenv then
    setfenv(1, setmetatable({{run = run}}, {{__index = _G}}))
  end
end
return run('{name}', KEYS, ARGV)
"""

# A library can use no global variable but `redis` while it is loaded.
_REGISTER = """\
redis.register_function({{function_name = '{function}', flags = {{{flags}}}, callback = function(keys, arguments)
  run = run or create()
  return run('{name}', keys, arguments)
end}})
"""


@dataclass(frozen=True)
class Library:
    """The scripts in the folder `lua` of a package.

    `parts` names the files that have what the scripts share, in their order. They run when the first script is called,
    after `lua/server.lua` of this package. Each other file of the folder is a script, which runs at each of its calls.
    When Redis is out of memory, it refuses to call a function, unless its script is one `without_memory`, which only
    reads or frees memory. A script that is called by its digest is refused at its first write, unless that write frees
    memory.
    """

    package: str
    parts: tuple[str, ...]
    without_memory: frozenset[str] = frozenset()

    @cached_property
    def scripts(self) -> tuple[str, ...]:
        """The names of the scripts."""
        names = (Path(each.name) for each in (files(self.package) / "lua").iterdir())
        return tuple(sorted(each.stem for each in names if each.suffix == ".lua" and each.stem not in self.parts))

    @cached_property
    def text(self) -> str:
        """The text of the library of functions."""
        registered = "".join(
            _REGISTER.format(
                function=self.function(name), name=name, flags="'allow-oom'" if name in self.without_memory else ""
            )
            for name in self.scripts
        )
        return f"#!lua name=neuronetz_{self._hash}\n{self._functions}local run\n{registered}"

    def function(self, name: str) -> str:
        """The name of the function that runs a script."""
        return f"{name}_{self._hash}"

    def script(self, name: str) -> Script:
        """The script as a separate text."""
        if name not in self._scripts:
            text = self._create((name,)) + _CALL.format(name=name)
            self._scripts[name] = Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
        return self._scripts[name]

    @cached_property
    def _scripts(self) -> dict[str, Script]:
        return {}

    @cached_property
    def _functions(self) -> str:
        return self._create(self.scripts)

    @cached_property
    def _hash(self) -> str:
        names = ",".join(sorted(self.without_memory))
        return hashlib.sha256(f"{names}\n{self._functions}".encode()).hexdigest()[:16]

    def _create(self, names: tuple[str, ...]) -> str:
        server = (files(__package__) / "lua" / "server.lua").read_text("utf-8")
        scripts = (_SCRIPT.format(name=name, text=self._read(name)) for name in names)
        return _CREATE.format(parts=server + "".join(map(self._read, self.parts)), scripts="".join(scripts))

    def _read(self, name: str) -> str:
        return (files(self.package) / "lua" / f"{name}.lua").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Script:
    """The text of a script and its SHA-1, by which Redis identifies it."""

    text: str
    digest: str
