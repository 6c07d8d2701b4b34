package main

import "context"

func (b *bench) sync(context.Context) error   { return nil }
func (b *bench) scrape(context.Context) error { return nil }
func (b *bench) memory(context.Context) error { return nil }
func (b *bench) start(context.Context) error  { return nil }
func (b *bench) commit(context.Context) error { return nil }
