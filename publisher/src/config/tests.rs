use super::*;
use secrecy::ExposeSecret;

const GOOD: &str = r#"
[hub]
database_url = "postgres://localhost/x"
api_token = "${TOKEN}"
[[spoke]]
region = "eu"
agents = ["http://127.0.0.1:7511/"]
token = "t"
[[context]]
kind = "tenant"
query = "SELECT id AS key, id AS tenant FROM tenants;"
watch = [{ table = "tenants", tenant = "id" }]
"#;

const AGENTS: &str = "agents = [\"http://127.0.0.1:7511/\"]\ntoken = \"t\"";
const TABLE: &str = "store = \"dynamodb\"\ntable = \"contexts\"\naws_region = \"eu-west-1\"";

fn read(text: &str) -> Result<Config, String> {
    let variable = |name: &str| (name == "TOKEN").then(|| "secret".to_owned());
    parse(Path::new("hub.toml"), text, &variable, false).map_err(|e| e.to_string())
}

fn wrong(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    read(&GOOD.replacen(from, to, 1))
        .map(|_| "accepted".to_owned())
        .unwrap_or_else(|e| e)
}

#[test]
fn a_good_configuration_is_read_with_its_defaults() {
    let config = read(GOOD).expect("good");
    assert_eq!(config.hub.listen.to_string(), "127.0.0.1:7400");
    assert_eq!(config.hub.scan, "0 */10 * * * *");
    assert_eq!(config.spokes[0].urls(), ["http://127.0.0.1:7511"]);
    assert!(!config.contexts[0].query.ends_with(';'));
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn a_region_may_be_a_table_which_bounds_its_values() {
    let text = GOOD.replace(AGENTS, TABLE);
    let config = read(&text).expect("good");
    assert_eq!(config.spokes[0].urls(), ["dynamodb://eu-west-1/contexts"]);
    let bounded = format!("{TABLE}\nmax_write_units = 500\nmax_read_units = 900\naudit_hours = 48");
    let config = read(&GOOD.replace(AGENTS, &bounded)).expect("good");
    let StoreConfig::Table(_, limits) = &config.spokes[0].store else {
        panic!("it is a table");
    };
    let caps = (limits.max_write_units, limits.max_read_units);
    assert_eq!(caps, (Some(500), Some(900)));
    assert_eq!(limits.audit_within.as_secs(), 48 * 3_600);
    let large = text.replace("kind =", "max_value_bytes = 400001\nkind =");
    let why = read(&large).map(|_| ()).expect_err("is too large");
    assert!(why.contains("context[0].max_value_bytes"), "{why}");
}

#[test]
fn a_direct_address_is_used_instead() {
    assert_eq!(
        read(GOOD).expect("good").hub.address().0,
        "hub.database_url"
    );
    let with = GOOD.replace("api_token", "direct_url = \"postgres://db/x\"\napi_token");
    let config = read(&with).expect("good");
    let (key, url) = config.hub.address();
    assert_eq!(
        (key, url.expose_secret()),
        ("hub.direct_url", "postgres://db/x")
    );
}

#[test]
fn files_of_tls_are_relative_to_the_configuration_and_a_region_may_have_its_own() {
    let text = GOOD
        .replace("http://127.0.0.1:7511/", "https://10.0.0.7:7511")
        .replace(
            "api_token",
            "listen = \"0.0.0.0:7400\"\ntls = { cert = \"hub.pem\", key = \"/k.pem\" }\nspoke_tls = { ca = \"ca.pem\" }\napi_token",
        )
        .replace("token = \"t\"", "token = \"t\"\ntls = { ca = \"eu.pem\" }");
    let parsed = parse(
        Path::new("/etc/hub.toml"),
        &text,
        &|_| Some("t".into()),
        false,
    );
    let config = parsed.expect("good");
    let api = config.hub.tls.expect("tls").identity;
    assert_eq!(
        (api.cert, api.key),
        ("/etc/hub.pem".into(), "/k.pem".into())
    );
    assert_eq!(config.hub.spoke_tls.ca, Some("/etc/ca.pem".into()));
    let StoreConfig::Agents { tls: Some(own), .. } = &config.spokes[0].store else {
        panic!("it has its own");
    };
    assert_eq!(own.ca, Some("/etc/eu.pem".into()));
}

#[test]
fn plain_http_off_loopback_has_to_be_asked_for() {
    let text = GOOD.replace("http://127.0.0.1:7511/", "http://10.0.0.7:7511");
    assert!(read(&text).is_err());
    assert!(read(&text.replace("api_token", "insecure = true\napi_token")).is_ok());
    let by_flag = parse(Path::new("hub.toml"), &text, &|_| Some("t".into()), true);
    assert!(by_flag.is_ok());
}

#[test]
fn each_mistake_gets_one_line_that_names_the_place() {
    let lines = [
        wrong(
            "database_url = \"postgres://localhost/x\"",
            "database_url = 5",
        ),
        wrong("[hub]", "[hub"),
        wrong("api_token", "api_tokem"),
        wrong("${TOKEN}", "${MISSING}"),
        wrong("${TOKEN}", "${file:missing}"),
        wrong("${TOKEN}", "${TOKEN"),
        wrong("api_token", "scan = \"*/10 * * * *\"\napi_token"),
        wrong("api_token", "listen = \"7400\"\napi_token"),
        wrong("postgres://localhost/x", "mysql://user:hunter2@localhost/x"),
        wrong("api_token", "direct_url = \"pooler:6432\"\napi_token"),
        wrong(
            "[[context]]",
            "[[spoke]]\nregion = \"eu\"\nagents = [\"http://h:1\"]\ntoken = \"t\"\n[[context]]",
        ),
        wrong(
            "watch = [",
            "[[context]]\nkind = \"tenant\"\nquery = \"SELECT 2\"\nwatch = [",
        ),
        wrong("kind = \"tenant\"", "kind = \"Tenant\""),
        wrong("[\"http://127.0.0.1:7511/\"]", "[\"127.0.0.1:7511\"]"),
        wrong("[\"http://127.0.0.1:7511/\"]", "[]"),
        wrong("agents =", "store = \"dynamodb\"\nagents ="),
        wrong("agents =", "table = \"t\"\nagents ="),
        wrong(AGENTS, "store = \"dynamodb\"\ntable = \"t\""),
        wrong(AGENTS, "store = \"dynamodb\"\ntable = \"contexts\""),
        wrong(AGENTS, &format!("{TABLE}\nendpoint = \"localhost\"")),
        wrong(AGENTS, &format!("{TABLE}\nrole_arn = \"writer\"")),
        wrong(AGENTS, &format!("{TABLE}\nmax_write_units = 3")),
        wrong(AGENTS, &format!("{TABLE}\naudit_hours = 0")),
        wrong("token = \"t\"\n", ""),
        wrong("tenant = \"id\"", "columns = [\"id\"]"),
        wrong("api_token", "max_delete_share = 1.5\napi_token"),
        wrong("api_token", "listen = \"0.0.0.0:7400\"\napi_token"),
        wrong("api_token", "tls = { cert = \"a.pem\" }\napi_token"),
        wrong(
            "api_token",
            "tls = { cert = \"a.pem\", ca = \"a.pem\" }\napi_token",
        ),
        wrong("api_token", "spoke_tls = { cert = \"a.pem\" }\napi_token"),
        wrong("http://127.0.0.1:7511/", "http://10.0.0.7:7511"),
        wrong("token = \"t\"", "token = \"t\"\ntls = { ca = \"ca.pem\" }"),
        wrong("token = \"t\"", "token = \"t\"\ntls = {}"),
        wrong(
            AGENTS,
            &format!("{TABLE}\nendpoint = \"http://10.0.0.7:8000\""),
        ),
        wrong(AGENTS, &format!("{TABLE}\ntls = {{ ca = \"ca.pem\" }}")),
        wrong("api_token", "max_change_share = -0.1\napi_token"),
        wrong("query", "max_contexts = 0\nquery"),
        wrong("query", "max_contexts = 5\nwarn_contexts = 5\nquery"),
        wrong("tenant = \"id\"", "tenants = \"all\", key = \"id\""),
    ];
    insta::assert_snapshot!(lines.join("\n"));
}
