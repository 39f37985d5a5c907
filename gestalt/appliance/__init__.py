"""The appliance: one machine that is a whole Gestalt, made, started, stopped and removed. Used by `gestaltctl appliance`."""
