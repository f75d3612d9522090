//! What a task costs the program that has it: the only test of its process, because it counts every byte.

#[cfg(test)]
mod task;
