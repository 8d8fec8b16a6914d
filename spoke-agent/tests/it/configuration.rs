//! What is said of a configuration that is wrong: one line, with the place and the key.

use super::support::file;
use insta::assert_snapshot;
use spoke_agent::config::authorize::Hash;
use spoke_agent::config::{Flags, Layers, Run, RunConfig, for_file_run, for_follow};
use std::collections::BTreeMap;
use tempfile::TempDir;

const GOOD: &str = r#"
region = "eu-west-1"
data = "${DIR}/eu.redb"
push_listen = "127.0.0.1:7511"
push_token = "${TOKEN}"
read_listen = "127.0.0.1:7521"
"#;

fn env(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let given = [("TOKEN", "secret"), ("DIR", "/var/lib/hubcast")];
    let all = given.iter().chain(more);
    all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn read(text: &str, flags: Flags, env: BTreeMap<String, String>) -> Result<RunConfig, String> {
    let dir = TempDir::new().expect("a directory");
    let path = file(dir.path(), "agent.toml", text);
    let layers = Layers::read(Some(&path), flags, env);
    let config = layers.and_then(|layers| for_file_run(&layers));
    let place = dir.path().display().to_string() + "/";
    config.map_err(|error| error.to_string().replace(&place, ""))
}

fn wrong(text: &str) -> String {
    read(text, vec![], env(&[])).expect_err("wrong")
}

fn with(line: &str) -> String {
    wrong(&format!("{GOOD}{line}\n"))
}

fn without(key: &str, line: &str) -> String {
    let kept: Vec<&str> = GOOD.lines().filter(|kept| !kept.starts_with(key)).collect();
    wrong(&format!("{}\n{line}\n", kept.join("\n")))
}

#[test]
fn the_file_is_overridden_by_the_environment_and_that_by_flags() {
    let from_file = read(GOOD, vec![], env(&[])).expect("good");
    assert_eq!(from_file.region.as_str(), "eu-west-1");
    assert_eq!(from_file.data.to_str(), Some("/var/lib/hubcast/eu.redb"));
    assert_eq!(from_file.cache_bytes, 24 << 20);
    assert!(from_file.read.socket.is_none() && from_file.read.token.is_none());
    let over = env(&[
        ("HUBCAST_AGENT_REGION", "from-env"),
        ("HUBCAST_AGENT_CACHE_MIB", "8"),
    ]);
    let from_env = read(GOOD, vec![], over.clone()).expect("good");
    assert_eq!(
        (from_env.region.as_str(), from_env.cache_bytes),
        ("from-env", 8 << 20)
    );
    let flags = vec![("region", "from-flag".to_owned())];
    assert_eq!(
        read(GOOD, flags, over).expect("good").region.as_str(),
        "from-flag"
    );
}

#[test]
fn a_value_can_come_from_a_file_and_its_last_line_break_is_not_part_of_it() {
    let dir = TempDir::new().expect("a directory");
    let secret = file(dir.path(), "region", "eu-west-9\n");
    let flags = vec![("region", format!("${{file:{}}}", secret.display()))];
    assert_eq!(
        read(GOOD, flags, env(&[])).expect("good").region.as_str(),
        "eu-west-9"
    );
}

#[test]
fn keys_that_are_unknown_missing_or_mistyped_are_named_with_their_place() {
    assert_snapshot!(with("read_lisen = \"127.0.0.1:1\""), @r#"agent.toml:7: there is no key "read_lisen"; did you mean "read_listen"?"#);
    assert_snapshot!(with("colour = \"red\""), @r#"agent.toml:7: there is no key "colour"; the keys are region, data, push_listen, push_token, push_token_next, push_cert, push_key, push_client_ca, read_listen, read_token, read_token_next, read_cert, read_key, read_socket, peers, insecure, cache_mib, memory_mib, store, table, aws_region, endpoint, role_arn, refresh_seconds, fills, refreshes, from, from_token, from_ca, kinds, tenants, authorize"#);
    assert_snapshot!(with("cache_mib = \"much\""), @"agent.toml:7: cache_mib must be a whole number, not a text");
    assert_snapshot!(with("cache_mib = 0"), @r#"agent.toml:7: cache_mib must be a whole number from 1 to 1048576, not "0""#);
    assert_snapshot!(with("read_token = 5"), @"agent.toml:7: read_token must be a text in quotes, not a number");
    assert_snapshot!(with("table = \"contexts\""), @r#"agent.toml:7: table belongs to store = "dynamodb"; remove it"#);
    assert_snapshot!(with("refresh_seconds = 3"), @r#"agent.toml:7: refresh_seconds belongs to store = "dynamodb"; remove it"#);
    assert_snapshot!(with("= 5"), @"agent.toml:7: this is not TOML: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`");
    assert_snapshot!(without("data", ""), @"data is not set; name a configuration file that has it (--config FILE), or set HUBCAST_AGENT_DATA or --data");
    assert_snapshot!(without("read_listen", ""), @"read_listen is not set; name a configuration file that has it (--config FILE), or set HUBCAST_AGENT_READ_LISTEN or --read-listen");
    assert_snapshot!(without("region", "region = \"eu west\""), @r#"agent.toml:6: region "eu west" is not a valid region: a region is made of a-z, A-Z, 0-9, '-', '_' and '.'"#);
}

#[test]
fn addresses_and_tokens_are_checked_before_anything_is_opened() {
    assert_snapshot!(without("push_listen", "push_listen = \"eu.example.com:7511\""), @r#"agent.toml:6: push_listen must be IP:PORT, such as 127.0.0.1:7521, not "eu.example.com:7511""#);
    assert_snapshot!(without("read_listen", "read_listen = \"0.0.0.0:7521\""), @"agent.toml:6: read_listen is 0.0.0.0:7521, which is not loopback: set read_token, or every host that reaches it can read");
    assert_snapshot!(without("push_token", "push_token = \"\""), @"agent.toml:6: push_token is empty");
    assert_snapshot!(without("push_token", "push_token = \"two words\""), @"agent.toml:6: push_token must be printable ASCII without spaces, since it travels in a header");
    assert_snapshot!(without("push_token", "push_token = \"${NOT_SET}\""), @"agent.toml:6: push_token refers to the environment variable NOT_SET, which is not set");
    assert_snapshot!(without("push_token", "push_token = \"${file:/nowhere/token}\""), @"agent.toml:6: push_token refers to the file /nowhere/token, which cannot be read: No such file or directory (os error 2)");
    assert_snapshot!(without("push_token", "push_token = \"${TOKEN\""), @"agent.toml:6: push_token has a ${ without its }");
}

#[test]
fn nothing_leaves_the_machine_in_plain_text_unless_that_is_asked_for() {
    let open = "push_listen = \"10.0.0.2:7511\"";
    assert_snapshot!(without("push_listen", open), @"agent.toml:6: push_listen is 10.0.0.2:7511, which is not loopback, and without TLS tokens and contexts can be read on the way: set push_cert and push_key (`publisher certs` makes a set for development), or insecure = true where the network itself is trusted");
    let read = "read_token = \"t\"\nread_listen = \"0.0.0.0:7521\"";
    assert_snapshot!(without("read_listen", read), @"agent.toml:7: read_listen is 0.0.0.0:7521, which is not loopback, and without TLS tokens and contexts can be read on the way: set read_cert and read_key (`publisher certs` makes a set for development), or insecure = true where the network itself is trusted");
    assert_snapshot!(with("peers = [\"http://127.0.0.1:7511\", \"http://10.0.0.3:7511\"]"), @"agent.toml:7: peers has http://10.0.0.3:7511, which is not loopback and not encrypted: use https, or set insecure = true where the network itself is trusted");
    assert_snapshot!(with("push_cert = \"a.pem\""), @"agent.toml:7: push_cert needs push_key beside it");
    assert_snapshot!(with("push_client_ca = \"a.pem\""), @"agent.toml:7: push_client_ca needs push_cert and push_key beside it");
    assert_snapshot!(with("read_key = \"a.pem\""), @"agent.toml:7: read_key needs read_cert beside it");
    assert_snapshot!(with("push_token_next = \"\""), @"agent.toml:7: push_token_next is empty");
    assert_snapshot!(with("read_token_next = \"t\""), @"agent.toml:7: read_token_next needs read_token beside it");
    assert_snapshot!(with("insecure = \"yes\""), @"agent.toml:7: insecure must be true or false, not a text");
    let good = |lines: &str| {
        let text = GOOD.replace("push_listen = \"127.0.0.1:7511\"", lines);
        self::read(&text, vec![], env(&[])).expect("good")
    };
    assert!(good(&format!("{open}\ninsecure = true")).push_tls.is_none());
    let secure = good(&format!(
        "{open}\npush_cert = \"a.pem\"\npush_key = \"b.pem\"\npush_client_ca = \"c.pem\"\npeers = [\"https://a:1\"]"
    ));
    assert!(secure.push_tls.is_some() && secure.peers_tls.ca.is_some());
}

fn follow(text: &str) -> Result<Run, String> {
    let dir = TempDir::new().expect("a directory");
    let path = file(dir.path(), "agent.toml", text);
    let layers = Layers::read(Some(&path), vec![], env(&[]));
    let config = layers.and_then(|layers| for_follow(&layers));
    let place = dir.path().display().to_string() + "/";
    config.map_err(|error| error.to_string().replace(&place, ""))
}

#[test]
fn what_a_follower_and_an_agent_do_not_have_in_common_is_refused_by_the_other() {
    let wrong = |lines: &str| {
        let text = format!("region = \"eu\"\nread_socket = \"/run/f.sock\"\n{lines}\n");
        follow(&text).expect_err("wrong")
    };
    assert_snapshot!(with("kinds = [\"k\"]"), @"agent.toml:7: kinds belongs to `spoke-agent follow`; remove it");
    assert_snapshot!(wrong("from = [\"unix:/a\"]\npush_token = \"t\""), @"agent.toml:4: push_token belongs to `spoke-agent run`; remove it");
    assert_snapshot!(wrong(""), @"from is not set; name a configuration file that has it (--config FILE), or set HUBCAST_AGENT_FROM or --from");
    assert_snapshot!(wrong("from = [\"unix:/a\", \"10.0.0.2:7521\"]"), @r#"agent.toml:3: from has "10.0.0.2:7521", which is no address; one looks like unix:/run/hubcast/eu-west-1.sock or http://10.0.0.2:7521, where that agent has its read_socket or read_listen"#);
    assert_snapshot!(wrong("from = [\"http://127.0.0.1:1\", \"http://10.0.0.2:7521\"]"), @"agent.toml:3: from has http://10.0.0.2:7521, which is not loopback and not encrypted: use https, or set insecure = true where the network itself is trusted");
    assert_snapshot!(wrong("from = [\"unix:/a\"]\ntenants = [\"a,b\"]"), @r#"agent.toml:4: tenants has "a,b", and nothing in it can have a comma"#);
    assert_snapshot!(wrong("from = [\"unix:/a\"]\nkinds = [\"a b\"]"), @r#"agent.toml:4: kinds "a b" is not a valid kind: a kind is a-z followed by a-z, 0-9 and _"#);
    let good = follow(
        "region = \"eu\"\nread_socket = \"/run/f.sock\"\nfrom = [\"unix:/a\", \"https://b:1\"]\n",
    );
    let Ok(Run::Follow(good)) = good else {
        panic!("{good:?}");
    };
    assert_eq!(good.follower.agents, ["unix:/a", "https://b:1"]);
    assert_eq!(good.follower.file, None);
}

/// With a policy that ends with these lines; the first of them is line 12.
fn with_policy(lines: &str) -> String {
    with(&format!(
        "[[authorize]]\nname = \"api\"\nheader = \"x-api-key\"\nkind = \"api_key\"\n\n{lines}"
    ))
}

#[test]
fn a_policy_is_read_with_its_defaults() {
    let text = format!("{GOOD}{POLICY}");
    let policies = read(&text, vec![], env(&[])).expect("good").authorize;
    let [least, most] = policies.as_slice() else {
        panic!("{policies:?}");
    };
    assert_eq!(
        (&*least.name, least.header.as_str(), least.hash),
        ("least", "x-key", Hash::None)
    );
    assert_eq!((&least.scheme, &least.tenant_header), (&None, &None));
    assert_eq!((least.max_age, &least.then), (None, &None));
    assert!(least.first.require.is_empty() && least.first.headers.is_empty());
    assert_eq!((most.hash, most.max_age), (Hash::Sha256, Some(1.5)));
    assert_eq!(most.first.require[0].names(), ["plan", "active"]);
    let then = most.then.as_ref().expect("a second context");
    assert_eq!(
        (then.part.kind.as_str(), then.same_tenant),
        ("cluster", true)
    );
    let sets: Vec<&str> = most.sets().map(|name| name.as_str()).collect();
    assert_eq!(sets, ["x-a", "x-b", "x-tenant"]);
}

const POLICY: &str = r#"
[[authorize]]
name = "least"
header = "X-Key"
kind = "api_key"

[[authorize]]
name = "2-most_"
header = "authorization"
scheme = "Bearer"
hash = "sha256"
kind = "api_key"
max_age = 1.5
require = ["plan.active"]
headers = { X-A = "a" }
tenant_header = "X-Tenant"
[authorize.then]
kind = "cluster"
key = "cluster_id"
[authorize.then.headers]
X-B = "b"
"#;

#[test]
fn a_key_of_a_policy_that_is_wrong_is_named_with_its_place() {
    assert_snapshot!(with_policy("hahs = \"sha256\""), @r#"agent.toml:12: there is no key "authorize.hahs"; did you mean "hash"?"#);
    assert_snapshot!(with_policy("colour = 1"), @r#"agent.toml:12: there is no key "authorize.colour"; the keys are name, header, scheme, hash, kind, require, headers, tenant_header, max_age, then"#);
    assert_snapshot!(with_policy("hash = \"md5\""), @r#"agent.toml:12: authorize.hash must be "none" or "sha256", not "md5""#);
    assert_snapshot!(with_policy("hash = true"), @"agent.toml:12: authorize.hash must be a text in quotes, not true or false");
    assert_snapshot!(with_policy("scheme = \"two words\""), @r#"agent.toml:12: authorize.scheme must be one word such as "Bearer", not "two words""#);
    assert_snapshot!(with_policy("scheme = \"\""), @"agent.toml:12: authorize.scheme is empty");
    assert_snapshot!(with_policy("require = \"active\""), @"agent.toml:12: authorize.require must be a list of fields, not a text");
    assert_snapshot!(with_policy("require = [1]"), @"agent.toml:12: authorize.require must be a list of texts in quotes, not a number");
    assert_snapshot!(with_policy("require = [\"plan.\"]"), @r#"agent.toml:12: authorize.require must name a field, such as "active" or, within an object, "plan.active", not "plan.""#);
    assert_snapshot!(with_policy("max_age = \"30s\""), @"agent.toml:12: authorize.max_age must be a number of seconds, not a text");
    assert_snapshot!(with_policy("max_age = 0"), @"agent.toml:12: authorize.max_age must be a number of seconds above 0, not 0");
    assert_snapshot!(with_policy("max_age = nan"), @"agent.toml:12: authorize.max_age must be a number of seconds above 0, not nan");
    assert_snapshot!(with_policy("headers = [\"x-a\"]"), @"agent.toml:12: authorize.headers must be a table of headers and fields, not a list");
    assert_snapshot!(with_policy("headers = { \"x a\" = \"a\" }"), @r#"agent.toml:12: authorize.headers names "x a", which is not a header's name"#);
    assert_snapshot!(with_policy("headers = { x-a = 1 }"), @"agent.toml:12: authorize.headers must be a table of headers and fields, which are texts in quotes, not a number");
    assert_snapshot!(with_policy("headers = { x-a = \"\" }"), @r#"agent.toml:12: authorize.headers must name a field, such as "active" or, within an object, "plan.active", not """#);
    assert_snapshot!(with_policy("headers = { x-a = \"a\", X-A = \"a\" }"), @r#"agent.toml:12: authorize.headers sets "x-a" a second time"#);
    assert_snapshot!(with_policy("headers = { content-length = \"a\" }"), @r#"agent.toml:12: authorize.headers names "content-length", a header that a policy cannot set"#);
    assert_snapshot!(with_policy("tenant_header = \"x-context-age\""), @r#"agent.toml:12: authorize.tenant_header names "x-context-age", a header that a policy cannot set"#);
    assert_snapshot!(with_policy("headers = { x-a = \"a\" }\ntenant_header = \"x-a\""), @r#"agent.toml:13: authorize.tenant_header sets "x-a" a second time"#);
}

#[test]
fn a_second_context_that_is_wrong_is_named_with_its_place() {
    assert_snapshot!(with_policy("then = 1"), @"agent.toml:12: authorize.then must be a table, not a number");
    assert_snapshot!(with_policy("[[authorize.then]]\nkind = \"cluster\""), @"agent.toml:12: authorize.then must be a table, not a list");
    assert_snapshot!(with_policy("[authorize.then]\nkind = \"cluster\""), @"agent.toml:12: authorize.then.key is not set, and this table needs it");
    assert_snapshot!(with_policy("[authorize.then]\nkind = \"cluster\"\nkey = \"a\"\nsame_tenant = 1"), @"agent.toml:15: authorize.then.same_tenant must be true or false, not a number");
    assert_snapshot!(with_policy("[authorize.then]\nkind = \"cluster\"\nkey = \"a\"\nhash = \"none\""), @r#"agent.toml:15: there is no key "authorize.then.hash"; the keys are kind, key, require, headers, same_tenant"#);
    assert_snapshot!(with_policy("headers = { x-a = \"a\" }\n[authorize.then]\nkind = \"cluster\"\nkey = \"a\"\nheaders = { x-a = \"b\" }"), @r#"agent.toml:16: authorize.then.headers sets "x-a" a second time"#);
}

#[test]
fn a_policy_that_lacks_something_or_has_a_wrong_name_is_named_with_its_place() {
    assert_snapshot!(with_policy("[[authorize]]\nname = \"api\"\nheader = \"a\"\nkind = \"b\""), @r#"agent.toml:13: authorize.name "api" is already the name of another policy"#);
    assert_snapshot!(with_policy("[[authorize]]\nname = \"Api\"\nheader = \"a\"\nkind = \"b\""), @r#"agent.toml:13: authorize.name must be a-z, 0-9, - and _, at most 64 of them and no sign first, not "Api""#);
    assert_snapshot!(with_policy("[[authorize]]\nname = \"b\"\nheader = \"a b\"\nkind = \"b\""), @r#"agent.toml:14: authorize.header names "a b", which is not a header's name"#);
    assert_snapshot!(with_policy("[[authorize]]\nname = \"b\"\nheader = \"a\"\nkind = \"B\""), @r#"agent.toml:15: authorize.kind "B" is not a valid kind: a kind is a-z followed by a-z, 0-9 and _"#);
    assert_snapshot!(with_policy("[[authorize]]\nname = \"b\"\nheader = \"a\""), @"agent.toml:12: authorize.kind is not set, and this table needs it");
    assert_snapshot!(with_policy("[[authorize]]\nname = \"b\"\nkind = \"a\""), @"agent.toml:12: authorize.header is not set, and this table needs it");
    assert_snapshot!(with_policy("[[authorize]]"), @"agent.toml:12: authorize.name is not set, and this table needs it");
}

#[test]
fn no_message_contains_a_token() {
    let flags = vec![("push_token", "very secret".to_owned())];
    let message = read(GOOD, flags, env(&[])).expect_err("wrong");
    assert!(!message.contains("very secret"), "{message}");
    let config = read(GOOD, vec![], env(&[])).expect("good");
    assert!(!format!("{config:?}").contains("secret\""), "{config:?}");
}
