def check(config, observations): pass
