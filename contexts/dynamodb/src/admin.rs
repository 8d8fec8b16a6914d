//! The table itself: its definition, creating it, and whether one that is there can be used.

use crate::client::{Db, TableError};
use crate::layout::TTL;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, PointInTimeRecoverySpecification,
    PointInTimeRecoveryStatus, ScalarAttributeType, TableDescription, TableStatus,
    TimeToLiveDescription, TimeToLiveSpecification, TimeToLiveStatus,
};
use std::time::Duration;

/// How long a new table may take.
const CREATED_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What was found of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Why it cannot be used.
    pub errors: Vec<String>,
    /// What is odd and stops nothing.
    pub warnings: Vec<String>,
}

/// The definition of a table, as commands of the AWS command line.
pub fn definition(table: &str, aws_region: &str) -> String {
    format!(
        "aws dynamodb create-table --region {aws_region} --table-name {table} --billing-mode PAY_PER_REQUEST \\\n  \
         --attribute-definitions AttributeName=pk,AttributeType=S AttributeName=sk,AttributeType=S \\\n  \
         --key-schema AttributeName=pk,KeyType=HASH AttributeName=sk,KeyType=RANGE\n\
         aws dynamodb wait table-exists --region {aws_region} --table-name {table}\n\
         aws dynamodb update-time-to-live --region {aws_region} --table-name {table} \\\n  \
         --time-to-live-specification Enabled=true,AttributeName={TTL}\n\
         aws dynamodb update-continuous-backups --region {aws_region} --table-name {table} \\\n  \
         --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true\n"
    )
}

impl Db {
    /// The description of the table; none if there is none.
    async fn describe(&self) -> Result<Option<TableDescription>, TableError> {
        let told = self.client.describe_table().table_name(&self.table).send();
        match told.await {
            Ok(told) => Ok(told.table),
            Err(error) if error.code() == Some("ResourceNotFoundException") => Ok(None),
            Err(error) => Err(self.meaning(error)),
        }
    }

    /// Whether the table can be used.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer.
    pub async fn check(&self) -> Result<Checked, TableError> {
        let mut checked = Checked::default();
        let Some(table) = self.describe().await? else {
            checked.errors.push(format!(
                "there is no table {:?}: `publisher migrate --create-tables` creates it, `publisher migrate --print` \
                 shows its definition",
                self.table
            ));
            return Ok(checked);
        };
        checked.errors = wrong_about(&self.table, &table);
        let (ttl, recovery) = (self.ttl().await?, self.has_recovery().await?);
        checked.warnings = odd_about(&self.table, ttl.as_deref(), recovery);
        Ok(checked)
    }

    /// The attribute by which the service removes items, if it removes any.
    async fn ttl(&self) -> Result<Option<String>, TableError> {
        let told = self.client.describe_time_to_live().table_name(&self.table);
        let told = told.send().await.map_err(|error| self.meaning(error))?;
        Ok(told.time_to_live_description.and_then(removed_by))
    }

    /// Whether it can be put back to a moment; none if the server knows no such thing.
    async fn has_recovery(&self) -> Result<Option<bool>, TableError> {
        let told = self.client.describe_continuous_backups();
        match told.table_name(&self.table).send().await {
            Ok(told) => {
                let backups = told.continuous_backups_description();
                let recovery = backups.and_then(|b| b.point_in_time_recovery_description());
                let status = recovery.and_then(|r| r.point_in_time_recovery_status());
                Ok(Some(status == Some(&PointInTimeRecoveryStatus::Enabled)))
            }
            Err(error) if is_unknown(error.code()) => Ok(None),
            Err(error) => Err(self.meaning(error)),
        }
    }

    /// Creates the table if it is not there: paid per request, with time to live and, where the server has it,
    /// point-in-time recovery. Returns what was done.
    ///
    /// # Errors
    /// [`TableError`] if it cannot be created.
    pub async fn create(&self) -> Result<Vec<String>, TableError> {
        let mut done = Vec::new();
        if self.describe().await?.is_none() {
            self.create_table().await?;
            done.push(format!("created table {:?}", self.table));
        }
        if self.ttl().await?.as_deref() != Some(TTL) {
            let on = TimeToLiveSpecification::builder()
                .enabled(true)
                .attribute_name(TTL);
            let on = on
                .build()
                .map_err(|e| TableError::Rejected(e.to_string()))?;
            let set = self.client.update_time_to_live().table_name(&self.table);
            let set = set.time_to_live_specification(on).send().await;
            set.map_err(|error| self.meaning(error))?;
            done.push(format!("table {:?}: time to live on {TTL:?}", self.table));
        }
        if self.has_recovery().await? == Some(false) {
            let on =
                PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true);
            let on = on
                .build()
                .map_err(|e| TableError::Rejected(e.to_string()))?;
            let set = self
                .client
                .update_continuous_backups()
                .table_name(&self.table);
            let set = set.point_in_time_recovery_specification(on).send().await;
            set.map_err(|error| self.meaning(error))?;
            done.push(format!("table {:?}: point-in-time recovery", self.table));
        }
        Ok(done)
    }

    async fn create_table(&self) -> Result<(), TableError> {
        let wrong = |e: aws_sdk_dynamodb::error::BuildError| TableError::Rejected(e.to_string());
        let attribute = |name: &str| {
            let of = AttributeDefinition::builder().attribute_name(name);
            of.attribute_type(ScalarAttributeType::S)
                .build()
                .map_err(wrong)
        };
        let key = |name: &str, of: KeyType| {
            let key = KeySchemaElement::builder().attribute_name(name);
            key.key_type(of).build().map_err(wrong)
        };
        let created = self
            .client
            .create_table()
            .table_name(&self.table)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(attribute("pk")?)
            .attribute_definitions(attribute("sk")?)
            .key_schema(key("pk", KeyType::Hash)?)
            .key_schema(key("sk", KeyType::Range)?)
            .send();
        created.await.map_err(|error| self.meaning(error))?;
        let active = async {
            loop {
                let table = self.describe().await?;
                let status = table.as_ref().and_then(|table| table.table_status());
                if status == Some(&TableStatus::Active) {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let late = |_| TableError::Lost(format!("table {:?} is not active yet", self.table));
        tokio::time::timeout(CREATED_WITHIN, active)
            .await
            .map_err(late)?
    }
}

/// Why a table of this description cannot be used.
fn wrong_about(name: &str, table: &TableDescription) -> Vec<String> {
    let mut wrong = Vec::new();
    let has_type = |key: &KeySchemaElement| {
        let mut of = table.attribute_definitions().iter();
        of.any(|a| {
            a.attribute_name() == key.attribute_name()
                && *a.attribute_type() == ScalarAttributeType::S
        })
    };
    let keys: Vec<(&str, &KeyType)> = table
        .key_schema()
        .iter()
        .filter(|key| has_type(key))
        .map(|key| (key.attribute_name(), key.key_type()))
        .collect();
    if keys != [("pk", &KeyType::Hash), ("sk", &KeyType::Range)] {
        wrong.push(format!(
            "table {name:?} has other keys than pk and sk, both text: it is not a table for contexts"
        ));
    }
    if !matches!(
        table.table_status(),
        Some(TableStatus::Active | TableStatus::Updating)
    ) {
        wrong.push(format!(
            "table {name:?} is {:?}, not active",
            table.table_status()
        ));
    }
    if !table.replicas().is_empty() {
        wrong.push(format!(
            "table {name:?} is a global table: its replicas resolve conflicts by the last writer, which undoes what \
             a version guards. Give each region a table of its own; the hub writes to all of them"
        ));
    }
    wrong
}

/// What is odd about a table from which the service removes items by this attribute, if any.
fn odd_about(name: &str, ttl: Option<&str>, has_recovery: Option<bool>) -> Vec<String> {
    let mut odd = Vec::new();
    match ttl {
        Some(TTL) => {}
        None => odd.push(format!(
            "table {name:?} has no time to live on {TTL:?}: the marks of removed tenants stay for ever"
        )),
        Some(other) => odd.push(format!(
            "table {name:?} has its time to live on {other:?} instead of {TTL:?}: the marks of removed tenants stay for \
             ever. Switch it off, and an hour later `publisher migrate --create-tables` can switch on the right one"
        )),
    }
    if has_recovery == Some(false) {
        odd.push(format!(
            "table {name:?} has no point-in-time recovery: what is deleted by mistake is filled by the hub only"
        ));
    }
    odd
}

fn removed_by(ttl: TimeToLiveDescription) -> Option<String> {
    let is_on = matches!(
        ttl.time_to_live_status,
        Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)
    );
    ttl.attribute_name.filter(|_| is_on)
}

fn is_unknown(code: Option<&str>) -> bool {
    code.is_some_and(|code| code.contains("UnknownOperation") || code == "ValidationException")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_dynamodb::types::ReplicaDescription;
    use aws_sdk_dynamodb::types::builders::TableDescriptionBuilder;

    /// A table with these keys.
    fn table(keys: [(&str, KeyType, ScalarAttributeType); 2]) -> TableDescriptionBuilder {
        let table = TableDescription::builder().table_status(TableStatus::Active);
        keys.into_iter().fold(table, |table, (name, of, holds)| {
            let key = KeySchemaElement::builder().attribute_name(name);
            let attribute = AttributeDefinition::builder().attribute_name(name);
            table
                .key_schema(key.key_type(of).build().expect("a key"))
                .attribute_definitions(attribute.attribute_type(holds).build().expect("one"))
        })
    }

    fn good() -> TableDescriptionBuilder {
        let text = ScalarAttributeType::S;
        table([
            ("pk", KeyType::Hash, text.clone()),
            ("sk", KeyType::Range, text),
        ])
    }

    fn wrong(table: TableDescriptionBuilder) -> String {
        wrong_about("contexts", &table.build()).join("; ")
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        assert_eq!(wrong(good()), "");
        assert_eq!(wrong(good().table_status(TableStatus::Updating)), "");
        let global = good().replicas(ReplicaDescription::builder().region_name("eu").build());
        assert!(wrong(global).contains("a table of its own"));
        for status in [TableStatus::Creating, TableStatus::Deleting] {
            let wrong = wrong(good().table_status(status));
            assert!(wrong.contains("not active"), "{wrong}");
        }
        let (text, bytes) = (ScalarAttributeType::S, ScalarAttributeType::B);
        let others = [
            table([
                ("pk", KeyType::Hash, text.clone()),
                ("sk", KeyType::Range, bytes),
            ]),
            table([
                ("sk", KeyType::Hash, text.clone()),
                ("pk", KeyType::Range, text.clone()),
            ]),
            table([
                ("id", KeyType::Hash, text.clone()),
                ("sk", KeyType::Range, text),
            ]),
            TableDescription::builder().table_status(TableStatus::Active),
        ];
        for other in others {
            let wrong = wrong(other);
            assert!(wrong.contains("other keys"), "{wrong}");
        }
    }

    #[test]
    fn what_is_odd_is_named() {
        let nothing: [String; 0] = [];
        assert_eq!(odd_about("contexts", Some(TTL), Some(true)), nothing);
        assert_eq!(odd_about("contexts", Some(TTL), None), nothing);
        let odd = odd_about("contexts", None, Some(false)).join("; ");
        assert!(
            odd.contains("no time to live") && odd.contains("no point-in-time"),
            "{odd}"
        );
        let odd = odd_about("contexts", Some("expires"), Some(true)).join("; ");
        assert!(odd.contains("on \"expires\" instead of \"ttl\""), "{odd}");
    }

    #[test]
    fn items_are_removed_only_while_that_is_on() {
        let of = |status| {
            let ttl = TimeToLiveDescription::builder().attribute_name("ttl");
            removed_by(ttl.time_to_live_status(status).build())
        };
        let ttl = Some("ttl".to_owned());
        assert_eq!(of(TimeToLiveStatus::Enabled), ttl);
        assert_eq!(of(TimeToLiveStatus::Enabling), ttl);
        assert_eq!(of(TimeToLiveStatus::Disabling), None);
        assert_eq!(of(TimeToLiveStatus::Disabled), None);
    }
}
