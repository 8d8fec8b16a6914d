use super::file::{HEADER as BEGIN, SIZE};
use super::*;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use tempfile::TempDir;

fn open(dir: &TempDir) -> Redo {
    Redo::open(&dir.path().join("s")).expect("opens")
}

/// A log with records that say 1, 2, 3, and the marks before each and after the last.
fn log(dir: &TempDir, records: u8) -> (Redo, Vec<Mark>) {
    let mut log = open(dir);
    let mut marks = vec![durable(&mut log)];
    for n in 1..=records {
        marks.push(append(&mut log, n));
    }
    (log, marks)
}

/// A durable commit of the store file.
fn durable(log: &mut Redo) -> Mark {
    log.forget();
    let mark = log.new_mark().expect("random").expect("a log");
    log.begin(mark);
    mark
}

fn append(log: &mut Redo, n: u8) -> Mark {
    let record = log.next(&[n; 100]).expect("room");
    log.append(&record, true).expect("appends");
    log.flush().expect("flushes");
    record.mark
}

fn numbers(log: &Redo, mark: Mark) -> Vec<u8> {
    let missing = log.after(Some(mark)).expect("reads");
    missing
        .records
        .iter()
        .map(|(_, record)| record[0])
        .collect()
}

#[test]
fn what_a_state_does_not_contain_is_told_in_order() {
    let dir = TempDir::new().expect("a directory");
    let (_, marks) = log(&dir, 5);
    let log = open(&dir);
    assert_eq!(numbers(&log, marks[0]), [1, 2, 3, 4, 5]);
    assert_eq!(numbers(&log, marks[3]), [4, 5]);
    assert_eq!(numbers(&log, marks[5]), [0; 0]);
    let missing = log.after(Some(marks[3])).expect("reads");
    assert_eq!(missing.records[1].0, marks[5]);
    assert!(log.after(None).expect("reads").records.is_empty());
}

#[test]
fn it_goes_on_behind_what_was_missing() {
    for known in [0, 3, 5] {
        let dir = TempDir::new().expect("a directory");
        let (_, marks) = log(&dir, 5);
        let mut again = open(&dir);
        let missing = again.after(Some(marks[known])).expect("reads");
        again.resume(&missing);
        assert_eq!(again.needs_settling(), known < 5);
        append(&mut again, 6);
        append(&mut again, 7);
        let expected = (known as u8 + 1..=7).collect::<Vec<_>>();
        assert_eq!(numbers(&open(&dir), marks[known]), expected);
    }
}

#[test]
fn records_are_found_only_by_the_state_that_they_follow() {
    let dir = TempDir::new().expect("a directory");
    let (mut log, marks) = log(&dir, 5);
    // A durable commit, as a claim is, and pushes after it: none of it follows a state from before.
    let later = durable(&mut log);
    assert_eq!(numbers(&log, later), [0; 0]);
    (6..=7).for_each(|n| _ = append(&mut log, n));
    assert_eq!(
        numbers(&log, later),
        [6, 7],
        "and not 3 to 5, which stand behind"
    );
    for before in marks {
        assert_eq!(numbers(&log, before), [0; 0]);
    }
}

#[test]
fn a_record_that_was_not_written_to_its_end_is_written_over() {
    let dir = TempDir::new().expect("a directory");
    let (log, marks) = log(&dir, 3);
    let file = OpenOptions::new()
        .write(true)
        .read(true)
        .open(path_of(&dir.path().join("s")));
    let file = file.expect("opens");
    let length = HEADER + 100 + CHECKSUM;
    let third = BEGIN + 2 * length;
    let turn_over = |byte: usize| {
        let mut was = [0];
        file.read_exact_at(&mut was, byte as u64).expect("reads");
        file.write_all_at(&[!was[0]], byte as u64).expect("writes");
    };
    for byte in third..third + length {
        turn_over(byte);
        assert_eq!(numbers(&log, marks[0]), [1, 2], "byte {byte}");
        turn_over(byte);
    }
    // Not a fixed value: the bytes are random, and one in 256 is that already.
    turn_over(third);
    let mut again = open(&dir);
    let missing = again.after(Some(marks[0])).expect("reads");
    again.resume(&missing);
    append(&mut again, 4);
    assert_eq!(numbers(&open(&dir), marks[0]), [1, 2, 4]);
}

#[test]
fn a_full_log_and_one_that_has_not_begun_take_nothing() {
    let dir = TempDir::new().expect("a directory");
    let mut log = open(&dir);
    assert!(log.next(b"x").is_none());
    assert!(log.new_mark().expect("random").is_none(), "it was not read");
    durable(&mut log);
    let half = vec![1; SIZE / 2];
    let record = log.next(&half).expect("room");
    log.append(&record, true).expect("appends");
    assert!(log.next(&half).is_none());
    for n in 1..RECORDS {
        append(&mut log, n as u8);
    }
    assert!(log.next(b"x").is_none(), "a durable commit is due");
}

#[test]
fn a_log_of_any_length_is_read_and_none_is_cut() {
    let dir = TempDir::new().expect("a directory");
    let (log, marks) = log(&dir, 3);
    let path = path_of(&dir.path().join("s"));
    let whole = std::fs::read(&path).expect("reads");
    assert_eq!(whole.len(), SIZE);
    drop(log);
    for length in [BEGIN + 3 * 136, 2 * SIZE] {
        let mut bytes = whole.clone();
        bytes.resize(length, 7);
        std::fs::write(&path, &bytes).expect("writes");
        assert_eq!(numbers(&open(&dir), marks[0]), [1, 2, 3]);
        let left = std::fs::read(&path).expect("reads");
        assert_eq!(left.len(), length.max(SIZE));
    }
}

#[test]
fn a_lost_or_damaged_log_is_noticed() {
    let dir = TempDir::new().expect("a directory");
    let (_, marks) = log(&dir, 3);
    let path = path_of(&dir.path().join("s"));
    let is_other = || {
        let missing = open(&dir).after(Some(marks[3])).expect("reads");
        missing.is_of_another_log
    };
    assert!(!is_other());
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes[20] ^= 1;
    std::fs::write(&path, &bytes).expect("writes");
    assert_eq!(
        numbers(&open(&dir), marks[0]),
        [1, 2, 3],
        "its records are whole"
    );
    assert!(is_other());
    std::fs::remove_file(&path).expect("removed");
    assert!(is_other());
}

#[test]
fn a_file_of_another_program_is_refused_and_left_as_it_is() {
    let dir = TempDir::new().expect("a directory");
    let path = path_of(&dir.path().join("s"));
    for foreign in [b"letters".to_vec(), vec![0; SIZE + 1]] {
        std::fs::write(&path, &foreign).expect("writes");
        let error = Redo::open(&dir.path().join("s")).expect_err("refused");
        assert!(error.to_string().contains("not the redo log"), "{error}");
        assert_eq!(std::fs::read(&path).expect("reads"), foreign);
    }
    // What a crash leaves of one that was being created.
    for zeros in [0, 100, SIZE] {
        std::fs::write(&path, vec![0; zeros]).expect("writes");
        let (log, marks) = log(&dir, 2);
        assert_eq!(numbers(&log, marks[0]), [1, 2]);
    }
}
