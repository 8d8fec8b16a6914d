//! Writes a difference: at once where one transaction has room for it, else in steps.
//!
//! A small group of tenants is one transaction: fence, heads (each only if the build that was read still stands there),
//! keys, pages of names. Several groups share one where they fit.
//!
//! A group that does not fit takes five steps. Each is a row of transactions, and each of those checks the fence, so
//! that a writer which was paused between any two goes on with nothing once another one has claimed the table.
//!
//! | step | writes | why no invariant breaks if it ends here |
//! | --- | --- | --- |
//! | 1 note | the journal: the build, its tenants, the keys that it touches | nobody reads it but who collects |
//! | 2 stage | "+" beside each key; pages of names under the build's id | no head names the build, so readers take "=", and all see the bundle before (2); what no head names is collected by the journal |
//! | 3 flip | all heads of the group, in one transaction | from here "+" counts, for every key at once (2); it needs the builds that were read, so nothing older replaces anything newer (1); it is durable, and may be acknowledged (6) |
//! | 4 settle | "=" as "+" has it, or nothing | both say the same |
//! | 5 collect | removes "+", pages that were replaced, the journal | "=" has it all |
//!
//! A group of which the heads alone have no room in one transaction is left, to be written in rounds that have (`moves`).
//!
//! Who claims the table looks into the journal before anything else: a build that a head names goes on at step 4, any
//! other at step 5.

use crate::client::{Db, TableError};
use crate::layout::{
    self, Build, Item, JOURNAL, Names, Place, SETTLED, STAGED, StoredContext, StoredHead, names_of,
    page, paginate, staged_of, tenants_of, weight,
};
use crate::transaction::{Expect, Transaction};
use crate::working::{Changed, ChangedHead, Group, read_heads};
use contexts::apply::Name;
use contexts::digest::DigestKey;
use contexts::name::TenantId;
use contexts::version::SessionId;
use std::collections::BTreeSet;

/// What writes: a session, on a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writing<'a> {
    pub(crate) db: &'a Db,
    pub(crate) key: &'a DigestKey,
    pub(crate) session: SessionId,
}

/// What became of some groups.
pub(crate) struct Committed<'g> {
    /// Whether the fence was seen with the last of what was written: of what is written in steps, the next writer may have
    /// done the last ones.
    pub(crate) is_seen: bool,
    /// Those of which the heads have no room in one transaction. Nothing of them was written.
    pub(crate) left: Vec<&'g Group>,
}

/// One action of a transaction.
enum Action {
    Put(Item),
    /// A head, and the build that has to stand there.
    Head(Item, Option<Build>),
    Delete(Place),
}

impl Action {
    fn bytes(&self) -> usize {
        match self {
            Self::Put(item) | Self::Head(item, _) => weight(item),
            Self::Delete(_) => 0,
        }
    }
}

impl ChangedHead {
    /// Where the names are if all is written at once: where they were, if there are as many pages. Nobody who reads both
    /// before and after can tell, since all writes are one, and who reads in between looks at the head again.
    fn written_over(&self) -> Names {
        match (&self.before, &self.stored.names) {
            (Names::Paged(build, had), Names::Paged(_, has)) if had == has => {
                Names::Paged(*build, *has)
            }
            (_, names) => names.clone(),
        }
    }

    /// Where they are if all is written in steps.
    fn written_apart(&self) -> Names {
        self.stored.names.clone()
    }
}

impl Writing<'_> {
    /// Writes all groups that can be written.
    pub(crate) async fn commit<'g>(
        &self,
        groups: &'g [Group],
    ) -> Result<Committed<'g>, TableError> {
        let mut shared = self.begin()?;
        let mut done = Committed {
            is_seen: !groups.is_empty(),
            left: Vec::new(),
        };
        for group in groups {
            let actions = self.at_once(group)?;
            let bytes: usize = actions.iter().map(|a| a.bytes() + 200).sum();
            if !shared.has_room(actions.len(), bytes) {
                let full = std::mem::replace(&mut shared, self.begin()?);
                self.send(full).await?;
            }
            if shared.has_room(actions.len(), bytes) {
                actions
                    .into_iter()
                    .try_for_each(|a| self.add(&mut shared, a))?;
                continue;
            }
            done.is_seen = false;
            match self.apart(group)? {
                Some(flip) => self.in_steps(group, flip).await?,
                None => done.left.push(group),
            }
        }
        self.send(shared).await?;
        Ok(done)
    }

    /// Ends what a writer left in the middle.
    pub(crate) async fn recover(&self) -> Result<(), TableError> {
        let items = self.db.query(JOURNAL, "").await?;
        let builds: Result<BTreeSet<Build>, _> = items
            .iter()
            .map(|item| layout::build_of(&Place::of(item)?))
            .collect();
        for build in builds? {
            tracing::info!(table = %self.db.table, ?build, "a large build that was left in the middle is ended");
            self.settle(build).await?;
        }
        Ok(())
    }

    fn begin(&self) -> Result<Transaction, TableError> {
        Transaction::fenced(self.db, self.session)
    }

    async fn send(&self, transaction: Transaction) -> Result<(), TableError> {
        match transaction.is_idle() {
            true => Ok(()),
            false => transaction.commit(self.db).await,
        }
    }

    fn add(&self, transaction: &mut Transaction, action: Action) -> Result<(), TableError> {
        match action {
            Action::Put(item) => transaction.put(self.db, item, Expect::Any),
            Action::Head(item, None) => transaction.put(self.db, item, Expect::Nothing),
            Action::Head(item, Some(build)) => transaction.put(self.db, item, Expect::Build(build)),
            Action::Delete(place) => transaction.delete(self.db, place),
        }
    }

    /// Any number of actions of which the order between transactions does not matter.
    async fn row(&self, actions: Vec<Action>) -> Result<(), TableError> {
        let mut transaction = self.begin()?;
        for action in actions {
            if !transaction.has_room(1, action.bytes() + 200) {
                let full = std::mem::replace(&mut transaction, self.begin()?);
                self.send(full).await?;
            }
            self.add(&mut transaction, action)?;
        }
        self.send(transaction).await
    }

    /// The group as one transaction.
    fn at_once(&self, group: &Group) -> Result<Vec<Action>, TableError> {
        let mut actions = self.flip(group, ChangedHead::written_over)?;
        let pages = self.pages(group, ChangedHead::written_over)?;
        actions.extend(pages.into_iter().map(Action::Put));
        for changed in &group.heads {
            if let Names::Paged(build, count) = changed.before
                && changed.before != changed.written_over()
            {
                let tenant = &changed.stored.tenant;
                let places = (0..count).map(|page| Place::page(tenant, build, page.into()));
                actions.extend(places.map(Action::Delete));
            }
        }
        actions.extend(group.contexts.iter().map(|changed| match &changed.stored {
            Some(stored) => Action::Put(stored.to_item(&changed.name, SETTLED)),
            None => Action::Delete(Place::context(&changed.name, SETTLED)),
        }));
        Ok(actions)
    }

    /// The heads, and what has to change with them.
    fn flip(
        &self,
        group: &Group,
        names: impl Fn(&ChangedHead) -> Names,
    ) -> Result<Vec<Action>, TableError> {
        let now = self.db.clock.reached().unwrap_or(0) / 1_000_000;
        let mut actions = Vec::new();
        for changed in &group.heads {
            let mut head = changed.stored.clone();
            head.names = names(changed);
            let item = head.to_item(self.key, now)?;
            actions.push(Action::Head(item, changed.seen));
        }
        for (kind, tenant, is_blind) in &group.blind {
            let place = Place::blind(kind, tenant);
            actions.push(match is_blind {
                true => Action::Put(place.to_key()),
                false => Action::Delete(place),
            });
        }
        Ok(actions)
    }

    /// The pages of names that the group's heads will name, as far as they change.
    fn pages(
        &self,
        group: &Group,
        names: impl Fn(&ChangedHead) -> Names,
    ) -> Result<Vec<Item>, TableError> {
        let mut items = Vec::new();
        for changed in group.heads.iter().filter(|changed| changed.is_renamed) {
            let (tenant, place) = (&changed.stored.tenant, names(changed));
            let Names::Paged(build, _) = place else {
                continue;
            };
            let listed = group.names.get(tenant).map_or(&[][..], |names| names);
            for (at, part) in paginate(listed).into_iter().enumerate() {
                items.push(page(&Place::page(tenant, build, at), part)?);
            }
        }
        Ok(items)
    }

    /// The third of the steps; none if one transaction has no room for it.
    fn apart(&self, group: &Group) -> Result<Option<Transaction>, TableError> {
        let mut flip = self.begin()?;
        let actions = self.flip(group, ChangedHead::written_apart)?;
        let bytes = actions.iter().map(|a| a.bytes() + 200).sum();
        if !flip.has_room(actions.len(), bytes) {
            return Ok(None);
        }
        actions
            .into_iter()
            .try_for_each(|action| self.add(&mut flip, action))?;
        Ok(Some(flip))
    }

    async fn in_steps(&self, group: &Group, flip: Transaction) -> Result<(), TableError> {
        let build = group.build;
        let tenants = group.heads.iter().map(|h| h.stored.tenant.clone());
        let tenants: Vec<TenantId> = tenants.collect();
        let names: Vec<Name> = group.contexts.iter().map(|c| c.name.clone()).collect();
        // The entry comes last: whoever finds it finds its pages.
        let pages = paginate(&names).into_iter().enumerate();
        let pages: Result<Vec<Item>, _> = pages
            .map(|(at, part)| page(&Place::journal_page(build, at), part))
            .collect();
        self.row(pages?.into_iter().map(Action::Put).collect())
            .await?;
        let entry = layout::journal(build, &tenants)?;
        self.row(vec![Action::Put(entry)]).await?;
        let pages = self.pages(group, ChangedHead::written_apart)?;
        let pages = pages.into_iter().map(Action::Put);
        self.row(pages.collect()).await?;
        let staged = |c: &Changed| layout::staged(&c.name, build, &c.by, c.stored.as_ref());
        let staged = group.contexts.iter().map(|c| Action::Put(staged(c)));
        let staged: Vec<Action> = staged.collect();
        self.row(staged).await?;
        self.send(flip).await?;
        self.settle(build).await
    }

    /// Steps 4 and 5, or only 5 if no head names the build.
    async fn settle(&self, build: Build) -> Result<(), TableError> {
        let journal = self.db.query(JOURNAL, &build.to_string()).await?;
        let (mut tenants, mut names) = (Vec::new(), Vec::new());
        for item in &journal {
            match item.contains_key("tenants") {
                true => tenants = tenants_of(item)?,
                false => names.extend(names_of(item)?),
            }
        }
        let heads = read_heads(self.db, self.key, tenants.iter()).await?;
        let is_flipped = heads.values().any(|head| head.build == build);
        let staged = names.iter().map(|name| Place::context(name, STAGED));
        let staged = self.db.get_all(staged).await?;
        let mut settled = Vec::new();
        for name in names.iter().filter(|_| is_flipped) {
            let Some(item) = staged.get(&Place::context(name, STAGED)) else {
                continue;
            };
            let staged = staged_of(item)?;
            if staged.build != build {
                continue;
            }
            settled.push(match staged.is_gone {
                true => Action::Delete(Place::context(name, SETTLED)),
                false => Action::Put(StoredContext::of(name, item)?.to_item(name, SETTLED)),
            });
        }
        self.row(settled).await?;
        self.row(staged.into_keys().map(Action::Delete).collect())
            .await?;
        for tenant in &tenants {
            self.row(self.unnamed_pages(tenant, heads.get(tenant)).await?)
                .await?;
        }
        let journal: Result<Vec<Place>, _> = journal.iter().map(Place::of).collect();
        // The entry goes last: as long as it is there, somebody ends this.
        let (entries, pages): (Vec<_>, Vec<_>) = journal?
            .into_iter()
            .partition(|place| *place == Place::journal(build));
        self.row(pages.into_iter().map(Action::Delete).collect())
            .await?;
        self.row(entries.into_iter().map(Action::Delete).collect())
            .await
    }

    /// Pages of a tenant that its head does not name.
    async fn unnamed_pages(
        &self,
        tenant: &TenantId,
        head: Option<&StoredHead>,
    ) -> Result<Vec<Action>, TableError> {
        let named = match head.map(|head| &head.names) {
            Some(Names::Paged(build, _)) => Some(*build),
            _ => None,
        };
        let mut unnamed = Vec::new();
        for item in self.db.query(&layout::pages(tenant), "").await? {
            let place = Place::of(&item)?;
            if Some(layout::build_of(&place)?) != named {
                unnamed.push(Action::Delete(place));
            }
        }
        Ok(unnamed)
    }
}
