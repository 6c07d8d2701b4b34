package store

import "syscall"

// dropPages gives back the memory of pages that bbolt has read from its file, which is
// mapped. They are read from the file again when they are needed.
func (s *Store) dropPages() {
	// It is advice: whatever becomes of it, the pages are the same.
	_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, s.db.Info().Data, uintptr(s.end), syscall.MADV_DONTNEED)
}
