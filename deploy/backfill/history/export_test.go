package history

// Units is units.
var Units = units
