"""What is left out of a record, and what stays."""

import pytest

from lightning_debug.tracking.secrets import LEFT_OUT, command, is_secret, redacted, without_secrets

PLANTED = "hunter2"


@pytest.mark.parametrize(
    "name",
    """token hf_token HF_TOKEN authToken access_tokens X-Auth-Token API_KEY apiKey api-key apikey
    AWS_ACCESS_KEY_ID aws_secret_access_key private_key db_password dbPassword password2 PASSWD pwd
    passphrase client_secret credentials cookie session_id sessionid dsn sentry.dsn auth basic_auth
    connection_string WANDB_API_KEY --hf-token model.api_key Authorization HTTPAuth""".split(),
)
def test_names_of_secrets(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    """num_tokens max_tokens tokens tokenizer tokens_per_batch pad_token pad_token_id eos_token
    mask_token class_token token_type token_dim author authors key keys monitor num_key_value_heads
    key_dim keyboard session passes basic_block private access compass passage secretary
    cookiecutter sessions_per_day path seed authority""".split(),
)
def test_names_of_harmless_things(name):
    assert not is_secret(name)


def test_nested_data_lose_what_has_a_secret_name():
    data = {
        "lr": 0.1,
        "db": {"user": "bob", "password": PLANTED, "hosts": [{"token": PLANTED}]},
        "credentials": {"a": [PLANTED]},
        "steps": (1, 2),
    }
    assert redacted(data) == {
        "lr": 0.1,
        "db": {"user": "bob", "password": LEFT_OUT, "hosts": [{"token": LEFT_OUT}]},
        "credentials": LEFT_OUT,
        "steps": [1, 2],
    }


def test_a_secret_in_a_name_is_left_out_as_well():
    assert redacted({"ghp_abcdefghijklmnop1234": 1}) == {LEFT_OUT: 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("password", None, id="none is no secret"),
        pytest.param("use_auth", True, id="nor is a switch"),
        pytest.param("token", 17, id="a number of a token"),
        pytest.param("token", "", id="nothing"),
    ],
)
def test_values_that_are_no_secrets_stay(name, value):
    assert redacted({name: value}) == {name: value}


def test_a_number_can_be_a_password():
    assert redacted({"password": 123456}) == {"password": LEFT_OUT}


@pytest.mark.parametrize(
    "text",
    [
        "sk-proj-abcdefghij0123456789",
        "ghp_abcdefghijklmnop1234",
        "github_pat_11ABCDEFG0abcdefghij_xyz",
        "hf_abcdefghijklmnopqrstuv",
        "AKIAIOSFODNN7EXAMPLE",
        "xoxb-1234567890-abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-def_123",
        "glpat-abcdefghij0123456789",
        "Bearer abcdefghijklmnop",
        "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5hJ7kL",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\nabc\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMIIabc cut off",
    ],
)
def test_keys_are_known_by_their_looks(text):
    assert without_secrets(f"x {text} y").replace(" y", "") == f"x {LEFT_OUT}"


@pytest.mark.parametrize(
    "text",
    [
        "0123456789abcdef0123456789abcdef01234567",
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8 (HEAD)",
        "sk-learn-gradient-boosting-model",
        "ModelCheckpointEveryNStepsAndAtTheEndOfTheEpoch1",
        "checkpoints/resnet50_imagenet_epoch100_batch256_seed42_cosine/last.ckpt",
        "lr=0.1, hidden=64, betas=(0.9, 0.999)",
        "max_tokens=100 tokenizer=bert-base pad_token='[PAD]'",
        "def f(token: str, key: int) -> None:",
        "self.token = nn.Parameter(torch.zeros(3))",
        "if password is None:",
        "git@github.com:someone/project.git",
        "https://example.org/a?page=2#top",
        "--lr 0.1 -p 3 --author bob",
        "Conv2d(1, 8, kernel_size=(3, 3))",
        "2026-01-01T10:00:00",
    ],
)
def test_harmless_texts_stay(text):
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    "text",
    [
        f'password = "{PLANTED}"',
        f'+    password: str = "{PLANTED}"',
        f"password = {PLANTED}",
        f"  token: {PLANTED}",
        f"export TOKEN={PLANTED}",
        f'os.environ["WANDB_API_KEY"] = "{PLANTED}"',
        f'os.environ.setdefault("API_KEY", "{PLANTED}")',
        f'parser.add_argument("--password", default="{PLANTED}")',
        f'{{"password": "{PLANTED}"}}',
        f"{{password: {PLANTED}}}",
        f'if password == "{PLANTED}":',
        f"PASSWORD='a {PLANTED} b'",
        f"python train.py --token {PLANTED} --lr 0.1",
        f"Server=x;Password={PLANTED};Db=y",
        f"https://bob:{PLANTED}@example.org/x",
        f"https://{PLANTED}@example.org/x.git",
        f"postgresql+psycopg://bob:a/{PLANTED}@example.org/db",
        f"s3://bucket/x?X-Amz-Signature={PLANTED}&page=2",
        f"https://example.org/?api_key={PLANTED}",
        f"Authorization: Basic {PLANTED}",
    ],
)
def test_texts_lose_what_is_assigned_to_a_secret_name(text):
    assert PLANTED not in without_secrets(text)


def test_what_stands_around_a_secret_stays():
    assert without_secrets("https://bob:pw@example.org/x?token=abc&page=2") == (
        f"https://example.org/x?token={LEFT_OUT}&page=2"
    )


def test_a_command_line_loses_the_values_of_secret_options():
    arguments = ["a.py", "--token", PLANTED, f"--password={PLANTED}", f"x.api_key={PLANTED}"]
    kept = ["--lr", "0.1", "--pad_token", "x", "--use-auth", "--verbose"]
    assert command([*arguments, *kept]) == [
        *("a.py", "--token", LEFT_OUT, f"--password={LEFT_OUT}", f"x.api_key={LEFT_OUT}"),
        *kept,
    ]


def test_the_home_folder_is_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/bob")
    assert without_secrets("/home/bob/a /home/bobby /x/home/bob") == "~/a /home/bobby /x/home/bob"


@pytest.mark.parametrize(
    "part", ["a", "a=b:", "\"'", "aB1+", "://a:", "-x ", "a.", "sk-", "'a'", 'b"', "key: ", "&a=b"]
)
def test_hostile_texts_take_no_time_to_speak_of(part):
    # Where a pattern backtracks, this takes minutes.
    assert without_secrets(part * (6000 // len(part)))
