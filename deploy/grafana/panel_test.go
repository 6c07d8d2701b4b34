package grafana_test

import "encoding/json"

type panel struct {
	ID          int    `json:"id"`
	Type        string `json:"type"`
	Title       string `json:"title"`
	Description string `json:"description"`
	GridPos     struct {
		X, Y, W, H int
	} `json:"gridPos"`
	Datasource  source   `json:"datasource"`
	Targets     []target `json:"targets"`
	FieldConfig struct {
		Defaults struct {
			Unit       string     `json:"unit"`
			Decimals   *int       `json:"decimals"`
			NoValue    string     `json:"noValue"`
			Links      []link     `json:"links"`
			Thresholds thresholds `json:"thresholds"`
			Color      struct {
				Mode string `json:"mode"`
			} `json:"color"`
			Custom struct {
				LineWidth   int `json:"lineWidth"`
				FillOpacity int `json:"fillOpacity"`
				Stacking    struct {
					Mode string `json:"mode"`
				} `json:"stacking"`
			} `json:"custom"`
		} `json:"defaults"`
		Overrides []override `json:"overrides"`
	} `json:"fieldConfig"`
	Options struct {
		ShowValue string `json:"showValue"`
		Legend    struct {
			DisplayMode string   `json:"displayMode"`
			Placement   string   `json:"placement"`
			Width       int      `json:"width"`
			Calcs       []string `json:"calcs"`
		} `json:"legend"`
	} `json:"options"`
	Transformations []struct {
		Options struct {
			IndexByName map[string]int `json:"indexByName"`
		} `json:"options"`
	} `json:"transformations"`
	Panels []panel `json:"panels"` // of a row that is folded
}

type thresholds struct {
	Steps []struct {
		Color string   `json:"color"`
		Value *float64 `json:"value"`
	} `json:"steps"`
}

// override is what differs for some fields of a panel.
type override struct {
	Matcher struct {
		Options any `json:"options"`
	} `json:"matcher"`
	Properties []struct {
		ID    string          `json:"id"`
		Value json.RawMessage `json:"value"`
	} `json:"properties"`
}

// property returns a property of an override, or nil.
func (o override) property(id string) json.RawMessage {
	for _, p := range o.Properties {
		if p.ID == id {
			return p.Value
		}
	}
	return nil
}

// annotation marks times in panels.
type annotation struct {
	Name       string `json:"name"`
	Datasource source `json:"datasource"`
	Expr       string `json:"expr"` // none of the one that Grafana has by itself
	Filter     struct {
		IDs []int `json:"ids"`
	} `json:"filter"`
}

type source struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type target struct {
	RefID      string `json:"refId"`
	Legend     string `json:"legendFormat"`
	Datasource source `json:"datasource"`
	Expr       string `json:"expr"`
	Format     string `json:"format"`
	Range      bool   `json:"range"`
	Instant    bool   `json:"instant"`
	Exemplar   bool   `json:"exemplar"`
	Hide       bool   `json:"hide"`
}

type link struct {
	Title string `json:"title"`
	URL   string `json:"url"`
}

type variable struct {
	Type       string `json:"type"`
	Name       string `json:"name"`
	Label      string `json:"label"`
	Definition string `json:"definition"`
	Multi      bool   `json:"multi"`
	IncludeAll bool   `json:"includeAll"`
	AllValue   string `json:"allValue"`
	Datasource source `json:"datasource"`
	Current    struct {
		Value any `json:"value"`
	} `json:"current"`
	Query any    `json:"query"`
	Regex string `json:"regex"`
}
