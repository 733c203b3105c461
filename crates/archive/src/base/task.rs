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

/// What a worker does at a time: a slice of one file, or several small files that fit into one frame.
pub type Task = Vec<Part>;

/// Large files in slices, small ones together; the largest first, so that no worker is left alone with one at the end.
pub fn tasks(files: &[Found]) -> Vec<Task> {
    let mut order: Vec<u32> = (0..files.len() as u32).filter(|file| files[*file as usize].size > 0).collect();
    order.sort_by_key(|file| std::cmp::Reverse(files[*file as usize].size));
    let mut tasks = Vec::new();
    let (mut together, mut sum) = (Vec::new(), 0);
    for file in order {
        let size = files[file as usize].size;
        if size >= FRAME as u64 {
            let slices = (0..size).step_by(SLICE as usize);
            tasks.extend(slices.map(|offset| vec![Part { file, offset, length: SLICE.min(size - offset) }]));
            continue;
        }
        if sum + size > FRAME as u64 {
            tasks.push(std::mem::take(&mut together));
            sum = 0;
        }
        together.push(Part { file, offset: 0, length: size });
        sum += size;
    }
    if !together.is_empty() {
        tasks.push(together);
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_cover_every_byte_once() {
        let sizes = [0, 1, 8192, FRAME as u64 - 1, FRAME as u64, 40 << 20, 500_000, 600_000];
        let files: Vec<Found> =
            sizes.iter().map(|size| Found { path: String::new(), size: *size, mode: 0o600, segment: None }).collect();
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
}
