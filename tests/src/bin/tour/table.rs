//! The region of the tour that is on a DynamoDB table: a server that speaks its API, and a gateway that has no agent to
//! ask but reads the table itself, through the loading cache of the library.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use contexts::name::Region;
use contexts_dynamodb::table::Table;
use serde_json::Value;
use spoke_agent::reader::table::{TableReader, TableReaderConfig};
use spoke_agent::reader::{Answer, ContextReader, Options, Reply};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use system_tests::gateway::Gateway;
use system_tests::process::{Process, program};
use system_tests::table::TableRegion;
use system_tests::{Result, free_port, sample, until};
use tokio::net::TcpListener;

/// What is cached is loaded again after this time. Ten seconds are usual; in the tour somebody waits for it.
const REFRESH_AFTER: Duration = Duration::from_millis(500);
/// The part of the sample's configuration that makes an agent of the region.
const AGENT: &str =
    "store  = \"agent\"\nagents = [\"${HUBCAST_AP_AGENT}\"]\ntoken  = \"${HUBCAST_AP_TOKEN}\"\n";

/// A region on a table, with the server that the table is on.
#[derive(Debug)]
pub struct OnTable {
    /// The region.
    pub region: TableRegion,
    _server: Process,
}

impl OnTable {
    /// Starts the server. Nobody has created the table yet.
    pub async fn start(dir: &Path, region: &str) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(program("dynamodb-server")?);
        command.arg(&address);
        let server = Process::start(command, &dir.join("dynamodb-server.log"))?;
        let region = TableRegion::at(region, &format!("http://{address}"), "contexts");
        until("the server to answer", Duration::from_secs(30), || async {
            region.db().check().await.ok()
        })
        .await?;
        let _server = server;
        Ok(Self { region, _server })
    }

    /// The sample's configuration with this region on the table, as a text.
    pub fn configure(&self, sample: &str) -> Result<String> {
        let TableRegion {
            region,
            endpoint,
            table,
        } = &self.region;
        let ours = format!(
            "store      = \"dynamodb\"\ntable      = \"{table}\"\naws_region = \"{region}\"\nendpoint   = \"{endpoint}\"\n"
        );
        match sample.contains(AGENT) {
            true => Ok(sample.replacen(AGENT, &ours, 1)),
            false => Err(format!("the sample's configuration has no agent of {region}").into()),
        }
    }

    /// How many contexts it has.
    pub async fn contexts(&self) -> Result<u64> {
        let table = Table::new(self.region.db(), Region::new(&self.region.region)?);
        Ok(table.hello().await??.contexts)
    }

    /// A gateway of the region, in this process. The table must be there.
    pub async fn gateway(&self) -> Result<Gateway> {
        let region = Region::new(&self.region.region)?;
        let mut config = TableReaderConfig::new(self.region.config(), region);
        config.refresh_after = REFRESH_AFTER;
        let reader = TableReader::on(self.region.db(), config, Options::default()).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let routes = Router::new().fallback(handle).with_state(reader);
        tokio::spawn(axum::serve(listener, routes).into_future());
        Gateway::at(&self.region.region, port).await
    }
}

/// As the example gateway answers: 401 only where it is known that there is no such key, 503 where nobody can say.
async fn handle(State(reader): State<TableReader>, request: Request) -> (StatusCode, HeaderMap) {
    let authorization = request.headers().get(AUTHORIZATION);
    let key = authorization.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let Some(key) = key else {
        return (StatusCode::UNAUTHORIZED, HeaderMap::new());
    };
    let (status, age) = authenticated(&reader, key).await;
    let mut headers = HeaderMap::new();
    if let Some(age) = age.and_then(|age| format!("{:.3}", age.as_secs_f64()).parse().ok()) {
        headers.insert("x-context-age", age);
    }
    (status, headers)
}

async fn authenticated(reader: &TableReader, key: &str) -> (StatusCode, Option<Duration>) {
    let unsure = (StatusCode::SERVICE_UNAVAILABLE, None);
    let hash = sample::key_hash(key);
    let Reply { answer, age, .. } = reader.get("api_key", &hash).await;
    let found = match answer {
        Answer::Found(found) => found,
        Answer::Absent | Answer::Expired => return (StatusCode::UNAUTHORIZED, age),
        _ => return unsure,
    };
    let Ok(value) = serde_json::from_slice::<Value>(found.bytes()) else {
        return unsure;
    };
    if value["active"] != true {
        return (StatusCode::FORBIDDEN, age);
    }
    let cluster = value["cluster_id"].as_str().unwrap_or_default();
    let known = reader.get("cluster", cluster).await;
    match known.answer {
        // The older of the two.
        Answer::Found(_) => (StatusCode::OK, age.max(known.age)),
        _ => unsure,
    }
}
