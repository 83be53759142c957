"""User identity negotiation (PS3.7 §D.3.3.7): what is believed, what is refused, and how."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import jwt
import pytest

from dicomnode.certificates import Secured
from dicomnode.dimse.channel import Admitted, Deferred, Refused
from dicomnode.registry import AE, Registry
from dicomnode.services.admission import Admission, Rules
from dicomnode.services.identities import (
    Credentials,
    Identified,
    Identities,
    Mode,
    Requestor,
    Verdict,
)
from dicomnode.services.tokens import TokenRules, Tokens
from dicomnode.ul.items import UserIdentityAC, UserIdentityRQ
from dicomnode.ul.negotiation import Negotiated
from dicomnode.ul.pdu import Rejection
from dicomnode.users import User, Users, hash_passcode
from tests.services.test_admission import RULES, request

SECURED = Secured("TLSv1.3", "TLS_AES_256_GCM_SHA384")

SECRET = b"s" * 32
JANE = User(name="jane", passcode=hash_passcode(b"correct horse"))
BELIEVED = User(name="console")
PLAIN = Requestor("CT_1", "10.0.0.3", False, 'access.user_identity = "ignore"')
ENCRYPTED = Requestor("CT_1", "10.0.0.3", True, 'access.user_identity = "ignore"')


@pytest.fixture
def identities() -> Iterator[Identities]:
    tokens = Tokens(TokenRules("HS256", "issuer", "DICOMNODE", "sub", 0), SECRET)
    made = Identities(Credentials(Users([JANE, BELIEVED]), tokens))
    yield made
    made.close()


async def verdict(
    identities: Identities,
    identity: UserIdentityRQ | None,
    mode: Mode = "optional",
    requestor: Requestor = ENCRYPTED,
) -> Verdict:
    found = identities.judge(identity, mode, requestor)
    return found if isinstance(found, Identified | Refused) else await found()


def passcode(name: str = "jane", code: bytes = b"correct horse") -> UserIdentityRQ:
    return UserIdentityRQ(2, True, name.encode(), code)


def token(**changes: object) -> UserIdentityRQ:
    claims = {"iss": "issuer", "aud": "DICOMNODE", "sub": "joe", "exp": time.time() + 60}
    return UserIdentityRQ(5, True, jwt.encode(claims | changes, SECRET, algorithm="HS256").encode())


async def test_users_prove_themselves_with_a_passcode_or_a_token(identities: Identities) -> None:
    assert await verdict(identities, passcode()) == Identified("jane")
    assert await verdict(identities, token()) == Identified("joe")
    assert await verdict(identities, UserIdentityRQ(1, False, b"console")) == Identified("console")


@dataclass(frozen=True)
class Case:
    identity: UserIdentityRQ | None
    why: str
    advice: str
    mode: Mode = "optional"
    requestor: Requestor = ENCRYPTED


REFUSED = {
    "a wrong passcode": Case(passcode(code=b"wrong"), "wrong passcode of user 'jane'", "user add"),
    "no passcode with it": Case(passcode(code=b""), "wrong passcode of user 'jane'", "user add"),
    "an unknown user": Case(passcode("eve"), "user 'eve' is not in users.toml", "user add"),
    "an unknown name": Case(UserIdentityRQ(1, True, b"eve"), "'eve' is not in users", "user add"),
    "a name alone that has a passcode": Case(
        UserIdentityRQ(1, True, b"jane"), "sent none", "send the passcode"
    ),
    "a passcode of one who has none": Case(
        passcode("console", b"x"), "'console' has no passcode", "user add"
    ),
    "a name that is no UTF-8": Case(UserIdentityRQ(1, True, b"\xff\x1b"), "'\\\\xff", "user add"),
    "a token that has expired": Case(token(exp=1), "it has expired", "section [jwt]"),
    "a passcode without TLS": Case(
        passcode(), "a passcode without TLS", "credentials_without_tls", requestor=PLAIN
    ),
    "a token without TLS": Case(
        token(), "a JSON Web Token without TLS", "credentials_without_tls", requestor=PLAIN
    ),
    "Kerberos": Case(UserIdentityRQ(3, True, b"t"), "Kerberos ticket, which is not supp", "JSON"),
    "SAML": Case(UserIdentityRQ(4, True, b"t"), "SAML assertion, which is not supp", "JSON"),
    "a type that does not exist": Case(UserIdentityRQ(77, True, b"t"), "type 77", "JSON"),
    "none where one is required": Case(
        None, "sent no user identity", 'access.user_identity = "ignore"', "required"
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused_with_the_rule_and_what_to_change(identities: Identities, name: str) -> None:
    case = REFUSED[name]
    refused = await verdict(identities, case.identity, case.mode, case.requestor)
    assert isinstance(refused, Refused)
    # PS3.7 §D.3.3.7: rejected-permanent, by the ACSE related function, no reason given.
    assert refused.rejection.value == (1, 2, 1)
    assert case.why in refused.why and case.advice in refused.advice
    assert refused.rule in ("access.user_identity", "access.credentials_without_tls") or (
        refused.rule in ("users.toml", "jwt")
    )
    assert "horse" not in refused.why + refused.advice


async def test_nothing_is_looked_at_where_identities_are_ignored(identities: Identities) -> None:
    for identity in (None, passcode("eve"), UserIdentityRQ(3, True, b"t")):
        assert await verdict(identities, identity, "ignore", PLAIN) == Identified()
    assert await verdict(identities, None, "optional") == Identified()


async def test_a_setting_takes_passcodes_without_tls() -> None:
    identities = Identities(Credentials(Users([JANE])), without_tls=True)
    assert await verdict(identities, passcode(), requestor=PLAIN) == Identified("jane")
    identities.close()


async def test_without_an_issuer_tokens_are_refused() -> None:
    refused = await verdict(Identities(Credentials()), token())
    assert isinstance(refused, Refused) and "jwt.key_file is not set" in refused.why


async def test_a_passcode_that_was_right_is_wrong_once_the_users_have_changed(
    identities: Identities,
) -> None:
    assert await verdict(identities, passcode()) == Identified("jane")
    identities.replace(Credentials(Users([User(name="jane", passcode=hash_passcode(b"another"))])))
    assert isinstance(await verdict(identities, passcode()), Refused)
    identities.replace(Credentials())
    assert isinstance(await verdict(identities, passcode(code=b"another")), Refused)


@pytest.mark.parametrize("users", [[], [User(name="jane", passcode=hash_passcode(b"another"))]])
async def test_a_passcode_is_wrong_if_the_users_change_while_it_is_compared(
    identities: Identities, users: list[User]
) -> None:
    comparing = asyncio.create_task(verdict(identities, passcode()))
    await asyncio.sleep(0)
    identities.replace(Credentials(Users(users)))
    assert isinstance(await comparing, Refused)


async def test_where_name_and_passcode_meet_is_part_of_what_is_known(
    identities: Identities,
) -> None:
    identities.replace(Credentials(Users([JANE, User(name="jan", passcode=JANE.passcode)])))
    assert await verdict(identities, passcode()) == Identified("jane")
    assert isinstance(await verdict(identities, passcode("jan", b"ecorrect horse")), Refused)


async def test_too_many_at_once_are_turned_away_for_now(
    identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.services.attempts._MOST_WAITING", 0)
    refused = await verdict(identities, passcode())
    assert isinstance(refused, Refused)
    assert refused.rejection is Rejection.TEMPORARY_CONGESTION


# -- with admission --------------------------------------------------------------------------------


def rules(mode: Mode) -> Rules:
    return replace(RULES, admit_unknown=True, user_identity=mode)


async def decided(answer: Admitted | Refused | Deferred) -> Negotiated | Refused:
    if isinstance(answer, Deferred):
        return await answer.decide()
    return answer.negotiated if isinstance(answer, Admitted) else answer


@pytest.mark.parametrize("asked", [True, False])
async def test_a_positive_response_comes_when_it_was_asked_for(
    identities: Identities, asked: bool
) -> None:
    admission = Admission(rules("optional"), Registry(), identities)
    identity = UserIdentityRQ(2, asked, b"jane", b"correct horse")
    answer = admission.admit(request("CT_1", user=(identity,)), "10.0.0.3", SECURED)
    assert isinstance(answer, Deferred) and admission.active == 1
    negotiated = await decided(answer)
    assert isinstance(negotiated, Negotiated) and negotiated.user == "jane"
    response = negotiated.response.find(UserIdentityAC)
    assert (response == UserIdentityAC(b"")) if asked else response is None
    answer.release()
    assert admission.active == 0


async def test_an_identity_that_is_not_looked_at_gets_no_response(identities: Identities) -> None:
    admission = Admission(rules("ignore"), Registry(), identities)
    answer = admission.admit(request("CT_1", user=(passcode("eve"),)), "10.0.0.3")
    assert isinstance(answer, Admitted)
    assert answer.negotiated.response.find(UserIdentityAC) is None
    assert answer.negotiated.user == ""


async def test_the_registry_has_the_last_word_on_whether_a_user_is_required(
    identities: Identities,
) -> None:
    registry = Registry(
        [AE(title="CT_1", user_identity="required"), AE(title="OLD", user_identity="ignore")]
    )
    lenient = Admission(rules("ignore"), registry, identities)
    refused = lenient.admit(request("CT_1"), "10.0.0.3")
    assert isinstance(refused, Refused) and "user_identity of CT_1 in ae.toml" in refused.advice
    strict = Admission(rules("required"), registry, identities)
    assert isinstance(strict.admit(request("OLD"), "10.0.0.3"), Admitted)
    assert isinstance(strict.admit(request("OTHER"), "10.0.0.3"), Refused)
    assert strict.active == 1, "who is refused takes no slot"


async def test_whoever_is_not_recognized_is_rejected_before_any_passcode_is_compared(
    identities: Identities,
) -> None:
    admission = Admission(replace(rules("required"), admit_unknown=False), Registry(), identities)
    answer = admission.admit(request("X", user=(passcode(),)), "10.0.0.3", SECURED)
    assert isinstance(answer, Refused)
    assert answer.rejection is Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED
