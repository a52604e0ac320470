"""Do the processes that train together train one model, on different data?"""
