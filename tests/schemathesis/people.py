"""Who makes schemathesis's calls, and what it cannot know: the person NAME is logged in with PASSWORD at BASE.

A call that ends its session or replaces its tokens has a session of its own; all others share one.
"""

import itertools
import json
import os
import time
import uuid

import requests
import schemathesis

NAME, PASSWORD, BASE = (os.environ[name] for name in ("NAME", "PASSWORD", "BASE"))

# Why a request that the document calls valid is refused all the same: what no schema can say. By the field's code, the
# fields that it is right for.
ANY = None
REFUSALS = {
    # Lists of words, and what the account itself says.
    "reserved": {"username"},
    "too_common": {"password", "new_password"},
    "same_as_username": {"password", "new_password"},
    "same_as_email": {"password", "new_password"},
    "same_as_name": {"password", "new_password"},
    "same_as_service": {"password", "new_password"},
    # 8 characters that are fewer once they are composed (NFC).
    "too_short": {"password", "new_password"},
    # U+0000 anywhere, and control characters in names: a pattern for them would be longer than the words.
    "invalid_characters": ANY,
    # The role comes in the query or in the body; a verified address changes with the password; one of challenge and
    # code needs the other; a reason of white space is none.
    "required": {"role", "password", "challenge", "code", "reason"},
    # A ban ends in the future.
    "out_of_range": {"until"},
    "ambiguous": {"role"},
    # An address is confirmed by a link's token or by challenge and code, which disown nothing.
    "not_allowed": {"token", "action"},
    # A change of a profile has to name one of its fields.
    "unknown_parameter": ANY,
    # Instants, ids and addresses: a pattern for them would be longer than the words.
    "invalid_format": {"since", "until", "user_id", "actor_id", "ip"},
    # Nobody but the service makes these.
    "invalid_cursor": {"after"},
}


NEXT = itertools.count(int(time.time()))


def log_in(name=NAME):
    answer = requests.post(f"{BASE}/api/v1/login", auth=(name, PASSWORD), timeout=10)
    answer.raise_for_status()
    return answer.json()


class Password:
    def get(self, case, context):
        return requests.auth._basic_auth_str(NAME, PASSWORD)

    def set(self, case, value, context):
        # The body is for clients without HTTP Basic, beside which it is not read: a bad one goes alone.
        if case.meta is None or case.meta.generation.mode.is_positive:
            case.headers["authorization"] = value


class Leaver:
    """Somebody new each time, with an account to delete."""

    def get(self, case, context):
        name = f"leaver-{uuid.uuid4().hex}"
        person = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        requests.post(f"{BASE}/api/v1/users/", json=person, timeout=10).raise_for_status()
        return log_in(name)["token"]

    def set(self, case, token, context):
        case.headers["x-access-token"] = token


class AccessToken:
    def get(self, case, context):
        return log_in()["token"]

    def set(self, case, token, context):
        case.headers["x-access-token"] = token


class RefreshToken:
    def get(self, case, context):
        return log_in()["refresh_token"]

    def set(self, case, token, context):
        case.headers["x-refresh-token"] = token


def alone():
    return schemathesis.auth(refresh_interval=None)


def shared():
    return schemathesis.auth(refresh_interval=600)


alone().apply_to(operation_id="login")(Password)
alone().apply_to(operation_id="refresh")(RefreshToken)
alone().apply_to(operation_id="logout")(AccessToken)
alone().apply_to(operation_id="delete_me")(Leaver)
shared().apply_to(tag=["users", "admin"]).skip_for(operation_id=["register", "delete_me"])(AccessToken)


@schemathesis.hook.apply_to(operation_id="register")
def map_body(context, body):
    """Left alone, nearly everybody has the example's name, which is taken, and the password 00000000."""
    if isinstance(body, dict):
        if body.get("username") == "ada":
            body["username"] = f"ada{next(NEXT)}"
        if body.get("email") == "ada@example.com":
            body["email"] = f"ada{next(NEXT)}@example.com"
        password = body.get("password")
        if isinstance(password, str) and len(password) >= 8 and len(set(password)) == 1:
            body["password"] = "a long and good one"
    return body


@schemathesis.hook.apply_to(operation_id=["confirm", "confirm_by_post", "show_password_reset", "reset_password",
                                      "not_me", "show_restore", "restore", "show_invitation", "accept_invitation"])
def before_call(context, case, kwargs):
    """As a program: most others get a page."""
    case.headers["accept"] = "application/json"


@schemathesis.serializer("application/x-ndjson")
def one_line(context, value):
    """Likewise of a body."""
    return json.dumps(value).encode() + b"\n"


@schemathesis.hook.apply_to(operation_id="show_not_me")
def before_call(context, case, kwargs):
    """As a browser: others get no page."""
    case.headers["accept"] = "text/html"


@schemathesis.deserializer("application/x-ndjson")
def first_line(context, response):
    """The schema is that of one line."""
    return json.loads(response.content.splitlines()[0])


@schemathesis.check
def refused_for_what_no_schema_says(context, response, case):
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code not in (400, 422):
        return
    if "json" not in response.headers["content-type"][0]:
        return
    error = response.json()
    if error["code"] in ("link_invalid", "code_invalid"):
        return
    for problem in error.get("errors", [{"code": error["code"], "field": None}]):
        fields = REFUSALS.get(problem["code"], set())
        assert fields is ANY or problem["field"] in fields, f"refused for {problem}"
