//! What is simulated: the shipped code, or a version of its surroundings with one mistake, to prove that the assertions
//! can fail.

/// One mistake, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// As it ships.
    Shipped,
    /// Stores take a push of any session and number.
    IgnoresSessions,
    /// Stores drop the last context of each bundle.
    HalfBundles,
    /// Stores do not compare what comes of a delta with what should.
    TrustsDeltas,
    /// Stores take no notice of a bundle that removes a tenant.
    KeepsDeleted,
    /// Stores answer before they commit.
    AcksBeforeCommit,
    /// Stores do not write the beat down.
    ForgetsBeats,
    /// Stores do not write down who took them by force.
    ForgetsForce,
    /// Builds use a snapshot from before they were asked for.
    StaleSnapshots,
    /// Every database claims to know every writer.
    KnowsEveryone,
    /// Rows are removed as soon as they are told.
    AcksWhatIsTold,
    /// A look tells what has a higher id than anything that was told.
    LooksBySequence,
    /// A look takes every transaction for ended that has a lower number than the last one that ended.
    ForgetsRunning,
    /// The lower bound of a look passes ids of open transactions.
    PassesOpenIds,
    /// Nobody says that triggers found no room.
    HidesMissed,
    /// Triggers write whether there is room or not.
    IgnoresRoom,
    /// The trigger asks whom a change concerns.
    ResolvesInTrigger,
    /// Whom a change concerns is asked in a later snapshot than that of the look.
    ResolvesLater,
    /// Nobody says that triggers are disabled.
    HidesGaps,
    /// A store is told its clock as it was heard of last, not as it was before the look.
    NamesLastReading,
    /// Whoever asks is told that everything is visible everywhere.
    CallsAllVisible,
    /// Every row of a bulk change looks like a change of its own.
    BulkIsUrgent,
    /// Statements go to whatever server there is.
    IgnoresServer,
    /// Of the rows of a transaction for which one stands the others are done with at once.
    ForgetsTheRest,
    /// A publisher pushes to nobody while a store that it should have is not there.
    WaitsForAll,
    /// Stores do not say which tenants they have.
    ListsNothing,
    /// A look that found nothing tells every tenant, to be sure.
    TellsAllWhenQuiet,
    /// A publisher falls asleep when nothing was changed for a while.
    SleepsWhenQuiet,
    /// Stores do not remember who owns a key that has no value.
    ForgetsHeld,
    /// Stores call the newest thing that they have the point up to which they have everything.
    PositionIsHighest,
    /// Whoever asks for tenants is told that they are delivered everywhere.
    CallsAllDelivered,
    /// An acknowledgement leaves rows that concern nobody.
    KeepsRows,
}
