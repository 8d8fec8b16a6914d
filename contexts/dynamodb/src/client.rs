//! The way to one table: credentials, retries, and what an error means. It decides nothing about contexts.
//!
//! What the service refuses for the moment (throttles, conflicts, its own errors) is tried again with growing pauses, and
//! less is asked of it meanwhile (the SDK's adaptive mode). What it may have done without saying so is
//! [`TableError::Lost`]: whoever gets that must not go on as if it knew. A transaction carries a token, so that the
//! attempts of one call count as one.

use crate::clock::ServiceClock;
use crate::layout::{BadItem, Item, Place};
use crate::units::Units;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Builder, Region};
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use std::time::Duration;

/// For one attempt of one call.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(5);
/// For a call with all its attempts.
const CALL_WITHIN: Duration = Duration::from_secs(20);
/// How often a call is tried.
const ATTEMPTS: u32 = 5;

/// Where a table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableConfig {
    /// Its name.
    pub table: String,
    /// The AWS region that it is in.
    pub aws_region: String,
    /// Another server than AWS itself.
    pub endpoint: Option<String>,
    /// A role to take on, with what the default chain of credentials gives.
    pub role_arn: Option<String>,
}

/// How much a table may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Write units a second, on average.
    pub max_write_units: Option<u32>,
    /// Read units a second, on average.
    pub max_read_units: Option<u32>,
    /// The time within which all items are compared, as long as there are scans: see the module `audit`.
    pub audit_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_write_units: None,
            max_read_units: None,
            audit_within: Duration::from_secs(24 * 3_600),
        }
    }
}

impl TableConfig {
    /// What messages and the hub's database call it.
    pub fn url(&self) -> String {
        let Self {
            table, aws_region, ..
        } = self;
        match &self.endpoint {
            None => format!("dynamodb://{aws_region}/{table}"),
            Some(endpoint) => format!("dynamodb://{aws_region}/{table}?endpoint={endpoint}"),
        }
    }
}

/// Why a call to the table did not do what it was for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TableError {
    /// Nothing that tells whether it was done.
    #[error("{0}")]
    Lost(String),
    /// The service does not accept us, or the table is not as it should be; a person has to look.
    #[error("{0}")]
    Rejected(String),
    /// The fence does not name the session: another writer has the table.
    #[error("the session has ended: another claim followed")]
    Fenced,
    /// Something else than the last build that was seen stands there.
    #[error("{what} was changed by somebody else since it was read")]
    Changed {
        /// What.
        what: String,
    },
    /// An item is not as it was written.
    #[error(transparent)]
    Damaged(#[from] BadItem),
}

/// A table, and what was learned on the way to it. Clones share all of it.
#[derive(Debug, Clone)]
pub struct Db {
    pub(crate) client: Client,
    pub(crate) table: String,
    /// The service's clock.
    pub clock: ServiceClock,
    /// What was paid for.
    pub units: Units,
}

impl Db {
    /// A table, with credentials from the default chain. Nothing is asked of it yet.
    pub async fn connect(config: &TableConfig) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let region = Region::new(config.aws_region.clone());
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(region);
        let shared = loader.load().await;
        let mut builder = Builder::from(&shared);
        if let Some(role) = &config.role_arn {
            let role = aws_config::sts::AssumeRoleProvider::builder(role)
                .session_name("hubcast")
                .configure(&shared);
            builder = builder.credentials_provider(role.build().await);
        }
        if let Some(endpoint) = &config.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        Self::with(builder, &config.table)
    }

    /// A table, for those who bring their own credentials and HTTP client.
    pub fn with(builder: Builder, table: &str) -> Self {
        Self::within(builder, table, ATTEMPT_WITHIN)
    }

    /// The same, with another time for one attempt of a call.
    pub fn within(builder: Builder, table: &str, attempt: Duration) -> Self {
        let clock = ServiceClock::default();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .operation_attempt_timeout(attempt)
            .operation_timeout(CALL_WITHIN)
            .build();
        let retries = RetryConfig::adaptive()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(Duration::from_millis(50))
            .with_max_backoff(Duration::from_secs(2));
        let config = builder
            .retry_config(retries)
            .timeout_config(timeouts)
            .interceptor(clock.clone())
            .build();
        Self {
            client: Client::from_conf(config),
            table: table.to_owned(),
            clock,
            units: Units::default(),
        }
    }

    /// The same, with at most so many units a second.
    #[must_use]
    pub fn limited(mut self, limits: &Limits) -> Self {
        let (read, write) = (limits.max_read_units, limits.max_write_units);
        self.units = self.units.capped(read, write);
        self
    }

    /// One item, strongly consistent.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer.
    pub async fn get(&self, place: &Place) -> Result<Option<Item>, TableError> {
        self.units.turn_to_read().await;
        let got = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(place.to_key()))
            .consistent_read(true)
            .return_consumed_capacity(Units::ASKED)
            .send();
        let got = Box::pin(got).await.map_err(|error| self.meaning(error))?;
        self.units.read(got.consumed_capacity());
        Ok(got.item)
    }

    /// What an error of the SDK means here.
    pub(crate) fn meaning<E, R>(&self, error: SdkError<E, R>) -> TableError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug,
    {
        let table = &self.table;
        let (code, message) = (error.code().unwrap_or_default(), error.message());
        let message = message.unwrap_or("no reason given");
        match (&error, code) {
            (SdkError::TimeoutError(_), _) => {
                TableError::Lost(format!("table {table:?}: no answer in time"))
            }
            (SdkError::ServiceError(_), "ResourceNotFoundException") => {
                TableError::Rejected(format!(
                    "there is no table {table:?}: `publisher migrate --create-tables` creates it, `publisher migrate --print` \
                 shows its definition"
                ))
            }
            (SdkError::ServiceError(_), code) if is_for_a_person(code) => {
                TableError::Rejected(format!("table {table:?}: {code}: {message}"))
            }
            (SdkError::ServiceError(_), code) if !code.is_empty() => {
                TableError::Lost(format!("table {table:?}: {code}: {message}"))
            }
            _ => TableError::Lost(format!("table {table:?}: {}", root_cause(&error))),
        }
    }
}

/// Codes that do not pass by themselves.
fn is_for_a_person(code: &str) -> bool {
    [
        "AccessDenied",
        "UnrecognizedClient",
        "InvalidSignature",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "ExpiredToken",
        "InvalidClientTokenId",
        "ValidationException",
        "UnknownOperation",
    ]
    .iter()
    .any(|known| code.contains(known))
}

/// The innermost reason, which is the one that a person can act on.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
