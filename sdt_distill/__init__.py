"""The offline trainer: data sets, teachers and losses around the network of `sdt_ros.network`. Needs no ROS."""
