//! How the files are shared out among the workers.

use super::scan::Found;
use crate::format::FRAME;

/// What one worker takes at a time of a large file.
const SLICE: u64 = 16 << 20;

/// A range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its place in the list of files.
    pub file: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// What a worker does at a time: a slice of one file, or several parts of files that fit into one frame.
pub type Task = Vec<Part>;

/// All of these files.
pub fn tasks(files: &[Found]) -> Vec<Task> {
    tasks_of(files, |_| true)
}

/// Large files in slices, the largest first, so that no worker is left alone with one at the end; small ones together with
/// their neighbours, since what changes lies in few folders. Small main forks are kept apart from what the log does not tell
/// of, which an incremental backup compares frame by frame.
pub fn tasks_of(files: &[Found], wanted: impl Fn(u32) -> bool) -> Vec<Task> {
    let size = |file: u32| files[file as usize].size;
    let all = (0..files.len() as u32).filter(|file| size(*file) > 0 && wanted(*file));
    let (mut large, small): (Vec<u32>, Vec<u32>) = all.partition(|file| size(*file) >= FRAME as u64);
    large.sort_by_key(|file| std::cmp::Reverse(size(*file)));
    let whole = |file: u32| Part { file, offset: 0, length: size(file) };
    let mut tasks: Vec<Task> = large.into_iter().flat_map(|file| slices(whole(file))).collect();
    let (mut main, mut others) = (Together::default(), Together::default());
    for file in small {
        let group = if files[file as usize].is_main() { &mut main } else { &mut others };
        group.add(whole(file), &mut tasks);
    }
    main.end(&mut tasks);
    others.end(&mut tasks);
    tasks
}

/// Ranges of files in tasks of a size: large ones sliced, small ones together, in their order.
pub fn tasks_of_ranges(ranges: impl IntoIterator<Item = Part>) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut together = Together::default();
    for range in ranges.into_iter().filter(|range| range.length > 0) {
        if range.length >= FRAME as u64 {
            tasks.extend(slices(range));
        } else {
            together.add(range, &mut tasks);
        }
    }
    together.end(&mut tasks);
    tasks
}

fn slices(range: Part) -> impl Iterator<Item = Task> {
    let Part { file, offset, length } = range;
    let starts = (0..length).step_by(SLICE as usize);
    starts.map(move |at| vec![Part { file, offset: offset + at, length: SLICE.min(length - at) }])
}

/// Parts that go into one frame.
#[derive(Default)]
struct Together {
    parts: Task,
    sum: u64,
}

impl Together {
    fn add(&mut self, part: Part, tasks: &mut Vec<Task>) {
        if self.sum + part.length > FRAME as u64 {
            self.end(tasks);
        }
        self.sum += part.length;
        self.parts.push(part);
    }

    fn end(&mut self, tasks: &mut Vec<Task>) {
        if !self.parts.is_empty() {
            tasks.push(std::mem::take(&mut self.parts));
        }
        self.sum = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, size: u64) -> Found {
        Found { path: path.to_owned(), size, mode: 0o600, segment: path.starts_with("base/").then_some(0) }
    }

    #[test]
    fn tasks_cover_every_byte_once() {
        let sizes = [0, 1, 8192, FRAME as u64 - 1, FRAME as u64, 40 << 20, 500_000, 600_000];
        let files: Vec<Found> = sizes.iter().map(|size| found("", *size)).collect();
        let mut covered = vec![0; files.len()];
        for task in tasks(&files) {
            assert!(task.len() == 1 || task.iter().map(|part| part.length).sum::<u64>() <= FRAME as u64);
            for part in task {
                assert_eq!(part.offset, covered[part.file as usize], "in order within a file");
                covered[part.file as usize] += part.length;
            }
        }
        assert_eq!(covered, sizes);
    }

    #[test]
    fn main_forks_have_frames_of_their_own() {
        let files =
            [found("base/1/5", 8192), found("base/1/5_fsm", 8192), found("base/1/6", 8192), found("PG_VERSION", 3)];
        let mut all: Vec<Vec<u32>> =
            tasks(&files).into_iter().map(|task| task.into_iter().map(|part| part.file).collect()).collect();
        all.sort();
        assert_eq!(all, [vec![0, 2], vec![1, 3]]);
    }

    #[test]
    fn ranges_are_cut_and_put_together() {
        let part = |file, offset, length| Part { file, offset, length };
        let page = 8192;
        let ranges = [part(0, 3 * page, page), part(0, 9 * page, SLICE + page), part(1, 0, 0), part(2, 0, page)];
        let tasks = tasks_of_ranges(ranges);
        let sliced = [vec![part(0, 9 * page, SLICE)], vec![part(0, 9 * page + SLICE, page)]];
        assert_eq!(tasks, [&sliced[..], &[vec![part(0, 3 * page, page), part(2, 0, page)]]].concat());
    }
}
