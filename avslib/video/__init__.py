from avslib.video.reader import probe, read_video
