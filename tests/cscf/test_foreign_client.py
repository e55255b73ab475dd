"""A foreign client, baresip, registers with SIP digest (TCP straight to the registrar)."""

import asyncio
from dataclasses import replace

import pytest

from keying.secret import Secret
from sba.testing import async_test
from tests.cscf.home import DAVE, home_network, until

MODULES = ("account.so", "menu.so", "stdio.so")


@pytest.mark.peer("baresip")
@pytest.mark.clause("TS 33.203", "N.2-foreign")
@async_test
async def test_baresip_registers_with_digest(tmp_path):
    user = replace(DAVE, credentials=Secret(b"opensesame"))
    options = {"transport": "tcp", "trusted_peers": ["127.0.0.1"]}
    async with home_network(tmp_path / "lab", subscribers=[user], **options) as home:
        folder = tmp_path / "baresip"
        folder.mkdir()
        target = f"sip:127.0.0.1:{home.hop.port};transport=tcp"
        account = f'<sip:dave@ims.test;transport=tcp>;auth_user=dave@ims.test;auth_pass=opensesame;outbound="{target}";regint=120\n'
        (folder / "accounts").write_text(account)
        modules = "".join(f"module {name}\n" for name in MODULES)
        (folder / "config").write_text(
            f"sip_listen 127.0.0.1:0\nnet_interface 127.0.0.1\nmodule_path /usr/lib/baresip/modules\n{modules}"
        )
        process = await asyncio.create_subprocess_exec(
            "baresip",
            "-f",
            str(folder),
            "-t",
            "10",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await until(lambda: home.cscf._location.by_impi(DAVE.impi), 9)
            assert home.cscf._location.by_impi(DAVE.impi).scheme == "digest"
        finally:
            process.kill()
            await process.wait()
